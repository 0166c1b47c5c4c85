// SPDX-License-Identifier: Apache-2.0
// Messages between a worker and its scorer child (README.md prints the layout; the other end is
// client/python/siftd/_scorer/child.py). Fixed little-endian structs; tensors follow them as raw
// bytes and are never copied here. Pure; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/artifact.h"
#include "pipeline/data/scored_batch.h"

namespace siftd::python_frames {

inline constexpr std::size_t kMaxErrorBytes = 64u << 10;
inline constexpr std::size_t kMaxManifestBytes = 16u << 20;
inline constexpr std::size_t kMaxRank = 16;
inline constexpr std::size_t kDigestBytes = 64;  // SHA-256 in hexadecimal

enum class Type : std::uint32_t {
  kReady = 1,   // child: Digest, manifest bytes
  kUpdate = 2,  // worker: UpdateHead, UpdateEntry[tensors], their bytes
  kScore = 3,   // worker: ScoreHead, InputEntry[inputs], their bytes
  kOk = 4,      // child: nothing
  kScores = 5,  // child: float32 [columns][rows]
  kError = 6,   // child: text
};

struct Header {
  char magic[4];
  std::uint32_t type;
  std::uint64_t body_bytes;  // that follow
};

struct UpdateHead {
  std::uint64_t run;
  std::uint64_t version;
  std::uint64_t step;
  std::uint64_t tensors;
};

struct UpdateEntry {
  std::uint64_t index;  // in the manifest's state
  std::uint64_t bytes;
};

struct ScoreHead {
  std::uint64_t rows;
  std::uint64_t inputs;  // all of the manifest's, in its order
};

struct InputEntry {
  std::uint32_t dtype;
  std::uint32_t rank;
  std::uint64_t bytes;
  std::int64_t shape[kMaxRank];  // [0] is ScoreHead::rows; zeros beyond rank
};

static_assert(sizeof(Header) == 16 && sizeof(UpdateHead) == 32 && sizeof(UpdateEntry) == 16 &&
              sizeof(ScoreHead) == 16 && sizeof(InputEntry) == 144);

// What is sent: `head`, then each of `payload`, which point into the frames of what made it.
struct Request {
  std::string head;
  std::vector<std::span<const std::uint8_t>> payload;
};

// REQUIRES: CheckWeights(manifest, weights) found nothing
Request UpdateRequest(const ArtifactManifest& manifest, const WeightsVersion& weights);

// The rows of all batches one after the other. Errors: an input is missing, or differs from batch
// to batch in more than its rows.
Result<Request> ScoreRequest(const ArtifactManifest& manifest,
                             const std::vector<ScoredBatchPtr>& batches);

// Checks magic and type, and the body's size against what that type may have. `scores_bytes`: of
// the columns that were asked for; 0 = none were.
Result<Type> CheckReply(const Header& header, std::size_t scores_bytes);

}  // namespace siftd::python_frames
