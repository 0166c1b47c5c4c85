// SPDX-License-Identifier: Apache-2.0
#include "worker/python_backend.h"

#include "pipeline/model/device.h"
#include "pipeline/wire/artifact_codec.h"

namespace siftd {

Duration BatchDeadline(const WorkerConfig& config) {
  const Duration deadline = milliseconds(config.score_deadline_ms);
  if (config.backend != "python") return deadline;
  return deadline + 2 * PythonReplicaOptions().start_deadline;
}

ScoreCost CostOf(const WorkerConfig& config) {
  return {config.score_dtype == "bf16", config.score_optimize,
          static_cast<int>(config.score_resolution)};
}

Result<std::shared_ptr<PythonReplica>> StartPythonReplica(const WorkerConfig& config,
                                                          const Log& log) {
  PythonReplicaOptions options;
  SIFTD_ASSIGN_OR_RETURN(const DeviceName device, ParseDevice(config.device));
  options.child.python = config.python;
  options.child.factory = config.python_factory;
  options.child.device = ToString(device);
  options.child.threads = static_cast<int>(config.threads);
  options.child.cost = CostOf(config);
  options.lanes = static_cast<int>(config.lanes);
  options.refuse_non_finite = config.refuse_non_finite_weights;
  // Of the batch's time two forwards take two thirds: in a group that hangs, then by itself.
  options.score_deadline = milliseconds(config.score_deadline_ms) / 3;
  options.log = [log](const std::string& line) { log->warn(line); };
  SIFTD_ASSIGN_OR_RETURN(auto replica, PythonReplica::Start(options, ParseManifest));
  log->info("scorer {} of {} is ready in {} processes", replica->sha256().substr(0, 12),
            config.python_factory, config.lanes);
  return std::shared_ptr<PythonReplica>(std::move(replica));
}

}  // namespace siftd
