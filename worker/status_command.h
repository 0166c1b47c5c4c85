// SPDX-License-Identifier: Apache-2.0
// `siftd status`: asks workers for their state, read only. The main thread.
#pragma once

#include <string>
#include <vector>

#include "pipeline/base/clock.h"

namespace siftd {

// Prints each worker's state to standard output, those that don't answer to standard error; the
// exit code.
int RunStatus(const std::vector<std::string>& endpoints, bool json, Duration timeout);

}  // namespace siftd
