// SPDX-License-Identifier: Apache-2.0
// backend python: the user's own model and loss in child processes. The main thread.
#pragma once

#include <memory>

#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/model/python_replica.h"
#include "pipeline/model/score_cost.h"
#include "worker/config.h"
#include "worker/log.h"

namespace siftd {

// Until an undecided batch is returned. Longer than config.score_deadline_ms by the time that two
// children may take to load: the one after a death that the batch was in, and the one after its
// own. A batch that was returned before it is rejected would come again, and again.
Duration BatchDeadline(const WorkerConfig& config);

// What scores may cost, for either backend.
ScoreCost CostOf(const WorkerConfig& config);

// Starts the children that python_factory names and waits until they are ready; `log` gets their
// deaths. REQUIRES: config.Validate().ok(), threads > 0
Result<std::shared_ptr<PythonReplica>> StartPythonReplica(const WorkerConfig& config,
                                                          const Log& log);

}  // namespace siftd
