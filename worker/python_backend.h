// SPDX-License-Identifier: Apache-2.0
// backend python: the user's own model and loss in child processes. The main thread.
#pragma once

#include <memory>

#include "pipeline/base/status.h"
#include "pipeline/model/python_replica.h"
#include "worker/config.h"
#include "worker/log.h"

namespace siftd {

// Starts the children that python_factory names and waits until they are ready; `log` gets their
// deaths. REQUIRES: config.Validate().ok(), threads > 0
Result<std::shared_ptr<PythonReplica>> StartPythonReplica(const WorkerConfig& config,
                                                          const Log& log);

}  // namespace siftd
