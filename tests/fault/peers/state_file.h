// SPDX-License-Identifier: Apache-2.0
// A trainer's state on disk, whole or not at all: as frames of the wire protocol, a Position for
// what is decided and a Selected for the half trained key. One thread.
#pragma once

#include <string>

#include "siftd/trainer_client.h"

namespace siftd::fault {

// Passes FaultPoint("state") with half of the bytes written.
Status WriteState(const TrainerState& state, const std::string& path);
Result<TrainerState> ReadState(const std::string& path);

}  // namespace siftd::fault
