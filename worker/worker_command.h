// SPDX-License-Identifier: Apache-2.0
// `siftd worker`: serves until a signal or the death of the parent, then drains. The main thread,
// before any other one is made.
#pragma once

#include "pipeline/model/scorer.h"
#include "worker/config.h"

namespace siftd {

// Announces the endpoint on standard output and in config.port_file; the exit code. parent_pid 0:
// no parent is watched. `load`: as in Worker::Create. REQUIRES: config.Validate().ok()
int RunWorker(const WorkerConfig& config, int parent_pid, ReplicaLoader load = {});

}  // namespace siftd
