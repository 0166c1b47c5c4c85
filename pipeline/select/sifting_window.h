// SPDX-License-Identifier: Apache-2.0
// SiftingWindow: whether the policy is in force for a batch (the modifiers sift_delay,
// repeat_delay_per_epoch, start, end, interrupt). One thread.
#pragma once

#include <cstdint>
#include <map>

#include "pipeline/data/batch_key.h"
#include "pipeline/data/job.h"

namespace siftd {

class SiftingWindow {
 public:
  SiftingWindow(const ModifierOptions& options, std::uint64_t total_steps);

  // `trainer_step`: optimizer steps done when the batch was admitted. The first call for an epoch
  // fixes the step at which it began. start and end are not looked at while total_steps is unknown
  // (0).
  bool InForce(const BatchKey& key, std::uint32_t epoch, std::uint64_t trainer_step);

 private:
  const ModifierOptions options_;
  const std::uint64_t total_steps_;
  std::map<std::uint32_t, std::uint64_t> epoch_began_;  // the newest few epochs
};

}  // namespace siftd
