// SPDX-License-Identifier: Apache-2.0
// `siftd status`: asks workers for their state, read only. The main thread.
#pragma once

#include <string>
#include <vector>

#include "pipeline/base/clock.h"

namespace siftd {

struct StatusOptions {
  std::vector<std::string> endpoints;
  bool json = false;
  Duration timeout = std::chrono::seconds(3);
  std::string keys;        // secret key file of a monitor; empty: not encrypted
  std::string worker_key;  // empty: worker.key beside `keys`
};

// Prints each worker's state to standard output, those that don't answer to standard error; the
// exit code.
int RunStatus(const StatusOptions& options);

}  // namespace siftd
