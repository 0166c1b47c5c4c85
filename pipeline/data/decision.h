// SPDX-License-Identifier: Apache-2.0
// The verdict on one candidate batch. Value; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace siftd {

enum class Outcome : std::uint8_t { kUnspecified = 0, kDecided = 1, kUnsifted = 2, kRejected = 3 };

// Numbers of proto/siftd/v1/wire.proto's ErrorCode (a test compares them).
enum class ErrorCode : std::uint8_t {
  kNone = 0,
  kHelloRequired = 1,
  kSuperseded = 2,
  kProtocolVersion = 3,
  kMalformed = 4,
  kNotAllowed = 5,
  kJobMismatch = 6,
  kRunObsolete = 7,
  kTooLarge = 8,
  kCreditExceeded = 9,
  kBadTensor = 10,
  kNoModel = 11,
  kModelMismatch = 12,
  kModelCorrupt = 13,
  kModelNotFinite = 14,
  kArtifactRefused = 15,
  kScoringFailed = 16,
  kNonFiniteScore = 17,
  kStale = 18,
  kDraining = 19,
  kBudgetTooSmall = 20,
  kQuarantined = 21,
  kInternal = 22,
};

struct Decision {
  Outcome outcome = Outcome::kUnspecified;
  ErrorCode code = ErrorCode::kNone;  // kRejected
  std::string text;
  std::uint32_t rows = 0;               // n
  std::vector<std::uint32_t> kept;      // [k] ascending row indices
  std::vector<float> score;             // [n] or empty
  std::vector<float> keep_probability;  // [n] or empty
  std::vector<float> weight;            // [k] or empty
  std::vector<float> percentile;        // [n] or empty
  std::string column;                   // name of `score`
  std::uint64_t model_version = 0;      // that scored; 0 = none
  std::uint64_t model_step = 0;
  float score_seconds = 0;  // share of the forward that scored it
};

// All rows kept with p = 1.
Decision UnsiftedDecision(std::uint32_t rows);
// No row kept.
Decision RejectedDecision(std::uint32_t rows, ErrorCode code, std::string text);

}  // namespace siftd
