// SPDX-License-Identifier: Apache-2.0
// A trainer's state as a TensorFile: its text "siftd_state" is proto/siftd/v1/state.proto as JSON,
// its tensors are the rows of the half-trained key. Pure; any thread.
#pragma once

#include "pipeline/base/status.h"
#include "pipeline/data/trainer_state.h"
#include "pipeline/wire/tensor_file.h"

namespace siftd {

inline constexpr std::uint32_t kStateSchema = 1;
inline constexpr char kStateText[] = "siftd_state";

TensorFile ToTensorFile(const TrainerState& state);
// Refuses another schema, what is no state, and rows that do not fit together.
Result<TrainerState> ToTrainerState(const TensorFile& file);

}  // namespace siftd
