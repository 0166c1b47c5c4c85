// SPDX-License-Identifier: Apache-2.0
// A worker's state as JSON for `siftd status --json`. Pure; any thread.
#pragma once

#include <string>

#include "pipeline/data/messages.h"

namespace siftd {

// Field names as in proto/siftd/v1/wire.proto; zero values included.
std::string StatusJson(const StatusReply& status);

}  // namespace siftd
