// SPDX-License-Identifier: Apache-2.0
// What a job asks of its workers: mode, policy, seed, bounds. Plain values that cross the wire;
// ranges and defaults are those of proto/siftd/v1/policy.proto. Validate() of a policy lives in
// pipeline/select beside the policy.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

namespace siftd {

enum class Mode : std::uint8_t { kUnspecified = 0, kSamples = 1, kVerdicts = 2 };

struct UniformOptions {
  double keep = 0.5;
  friend bool operator==(const UniformOptions&, const UniformOptions&) = default;
};

struct ConfidenceOptions {
  double tau = 0.5;
  double floor = 0.05;
  friend bool operator==(const ConfidenceOptions&, const ConfidenceOptions&) = default;
};

struct LossCdfOptions {
  double beta = 1.0;                         // keep = 1 / (1 + beta)
  std::uint32_t loss_history_length = 1024;  // rows
  double floor = 0.0;
  double clip = 1.0;
  friend bool operator==(const LossCdfOptions&, const LossCdfOptions&) = default;
};

struct ComposerRankOptions {
  double keep = 0.5;
  friend bool operator==(const ComposerRankOptions&, const ComposerRankOptions&) = default;
};

struct TopKOptions {
  double keep = 0.5;
  friend bool operator==(const TopKOptions&, const TopKOptions&) = default;
};

struct ModifierOptions {
  std::uint64_t sift_delay = 0;  // trainer steps
  bool repeat_delay_per_epoch = false;
  double start = 0.0;  // fraction of the run
  double end = 1.0;    // fraction of the run
  std::uint32_t interrupt = 0;
  friend bool operator==(const ModifierOptions&, const ModifierOptions&) = default;
};

enum class NonFinite : std::uint8_t { kDrop = 1, kKeep = 2 };

struct PolicyOptions {
  // monostate: not chosen; the worker's configured policy stands.
  std::variant<std::monostate, UniformOptions, ConfidenceOptions, LossCdfOptions,
               ComposerRankOptions, TopKOptions>
      kind;
  ModifierOptions modifiers;
  std::string column;  // empty: the policy's own default
  NonFinite non_finite = NonFinite::kDrop;
  friend bool operator==(const PolicyOptions&, const PolicyOptions&) = default;
};

struct JobSpec {
  Mode mode = Mode::kUnspecified;
  PolicyOptions policy;
  std::uint64_t seed = 0;
  std::string artifact_sha256;
  std::uint64_t total_steps = 0;          // 0 = unknown
  std::uint64_t max_staleness_steps = 0;  // 0 = no bound
  bool stale_unsifted = false;
  friend bool operator==(const JobSpec&, const JobSpec&) = default;
};

}  // namespace siftd
