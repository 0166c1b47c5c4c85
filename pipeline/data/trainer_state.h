// SPDX-License-Identifier: Apache-2.0
// TrainerState: what a trainer rank has trained, for a checkpoint. Value; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "pipeline/data/messages.h"

namespace siftd {

// Enough for a new process to go on without losing or repeating a row. `half` are the untrained
// rows of the one key that is half trained, `carried` those that drop_last carried over from an
// epoch that is over, by key, oldest first: together at most one batch of tensors and one key.
struct TrainerState {
  DecidedSet decided;
  std::optional<Selected> half;
  std::vector<Selected> carried;
  std::uint64_t steps = 0;
  std::uint32_t rank = 0;
  std::uint32_t world = 1;
  std::uint32_t loader_count = 1;
  std::uint32_t batch_size = 1;
};

}  // namespace siftd
