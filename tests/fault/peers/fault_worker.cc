// SPDX-License-Identifier: Apache-2.0
// siftd_fault_worker: a whole `siftd worker` over a FaultReplica.
//
//   siftd_fault_worker --artifact scorer.pt --cost-us 2000 --events w0 --port-file w0.port
#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <utility>

#include "pipeline/wire/codec.h"
#include "tests/fault/peers/fault_replica.h"
#include "worker/config_flags.h"
#include "worker/exit_code.h"
#include "worker/worker_command.h"

namespace siftd::fault {
namespace {

int Main(int argc, char** argv) {
  CLI::App app("A siftd worker of the fault suite.");
  ConfigFlags flags;
  flags.AddTo(&app);
  int parent_pid = 0;
  std::uint64_t cost_us = 0;
  std::uint64_t cost_us_per_row = 0;
  std::string events;
  FaultReplicaOptions options;
  app.add_option("--parent-pid", parent_pid, "Drain and end when this process ends");
  app.add_option("--cost-us", cost_us, "Time of each forward, us");
  app.add_option("--cost-us-per-row", cost_us_per_row, "Time of each of its rows, us");
  app.add_option("--poison", options.poison, "A batch with this sample id kills the process");
  app.add_option("--events", events, "Event log");
  CLI11_PARSE(app, argc, argv);
  const auto config = flags.Resolve();
  if (!config.ok()) {
    std::fprintf(stderr, "%s: %s\n", argv[0], config.status().message().c_str());
    return kExitConfig;
  }
  options.cost = {std::chrono::microseconds(cost_us), std::chrono::microseconds(cost_us_per_row)};
  options.refuse_non_finite = config->refuse_non_finite_weights;
  const EventLog log(events);
  return RunWorker(
      *config, parent_pid,
      [&](const Frame& /*archive*/, ArtifactManifest manifest) -> Result<std::shared_ptr<Replica>> {
        return std::shared_ptr<Replica>(
            std::make_shared<FaultReplica>(std::move(manifest), options, &log));
      });
}

}  // namespace
}  // namespace siftd::fault

int main(int argc, char** argv) {
  siftd::QuietProtobuf();
  return siftd::fault::Main(argc, argv);
}
