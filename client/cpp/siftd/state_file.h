// SPDX-License-Identifier: Apache-2.0
// A trainer's state in a file: a safetensors file whose text "siftd_state" is JSON, so that
// `siftd state show FILE` and other tools can look into it. Any thread.
#pragma once

#include <string>

#include "pipeline/base/status.h"
#include "pipeline/data/trainer_state.h"

namespace siftd {

// Writes `path` whole or not at all: a crash leaves what was there before. Errors: kUnavailable,
// with the system's reason.
Status SaveState(const TrainerState& state, const std::string& path);

// Errors: kNotFound, and kInvalidArgument for a file that is no state or of another schema.
Result<TrainerState> LoadState(const std::string& path);

}  // namespace siftd
