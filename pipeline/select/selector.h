// SPDX-License-Identifier: Apache-2.0
// Selector: decides which rows of a scored batch are kept, by the job's policy and its modifiers.
// Pure: scores and coins in, decision out. One caller at a time (the graph's serial select node).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/scored_batch.h"

namespace siftd {

class Selector {
 public:
  Selector();
  ~Selector();

  // Fills batch->decision from scores and job; a decision that is already kRejected stays. Rebuilds
  // the policy when the job's options or the run changed. Allocates nothing in steady state, if the
  // decision's vectors are large enough by an earlier use. Never throws.
  void Select(ScoredBatch& batch);
  // A model version came into force, with its `history`: the policy's history starts from it if it
  // has none yet, and is exactly it for each batch that requires this version.
  void SeedHistory(std::uint64_t run, std::uint64_t version, std::vector<float> sample);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Ranges of every option, the modifiers included; the message names field, value and allowed range.
Status Validate(const PolicyOptions& options);
// "confidence(tau=0.5, floor=0.05)"
std::string ToString(const PolicyOptions& options);
// Score column that the policy reads: options.column or the policy's own default.
std::string PolicyColumn(const PolicyOptions& options);

}  // namespace siftd
