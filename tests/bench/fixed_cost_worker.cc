// SPDX-License-Identifier: Apache-2.0
// A whole `siftd worker` whose scorer sleeps for a given time and takes no CPU, so that a pool can
// be larger than the host's cores.
//
//   siftd_fixed_cost_worker --artifact scorer.pt --cost-us-per-row 20 --port-file w.port
#include <sys/prctl.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <utility>

#include "pipeline/wire/codec.h"
#include "tests/bench/fixed_cost_replica.h"
#include "worker/config_flags.h"
#include "worker/exit_code.h"
#include "worker/worker_command.h"

namespace siftd {
namespace {

Duration Micros(double us) { return std::chrono::nanoseconds(std::llround(us * 1000)); }

int Main(int argc, char** argv) {
  CLI::App app("A siftd worker whose scorer takes a fixed time and no CPU.");
  ConfigFlags flags;
  flags.AddTo(&app);
  int parent_pid = 0;
  double per_forward = 0;
  double per_row = 0;
  app.add_option("--parent-pid", parent_pid, "Drain and end when this process ends");
  app.add_option("--cost-us", per_forward, "Time of each forward, us")->check(CLI::Range(0.0, 1e9));
  app.add_option("--cost-us-per-row", per_row, "Time of each of its rows, us")
      ->check(CLI::Range(0.0, 1e9));
  CLI11_PARSE(app, argc, argv);
  const auto config = flags.Resolve();
  if (!config.ok()) {
    std::fprintf(stderr, "%s: %s\n", argv[0], config.status().message().c_str());
    return kExitConfig;
  }
  // Threads inherit it: a forward is not made longer by the default slack of 50 us.
  prctl(PR_SET_TIMERSLACK, 1000ul);
  const FixedCost cost{Micros(per_forward), Micros(per_row)};
  return RunWorker(*config, parent_pid,
                   [cost](const Frame& /*archive*/,
                          ArtifactManifest manifest) -> Result<std::shared_ptr<Replica>> {
                     return std::shared_ptr<Replica>(
                         std::make_shared<FixedCostReplica>(std::move(manifest), cost));
                   });
}

}  // namespace
}  // namespace siftd

int main(int argc, char** argv) {
  siftd::QuietProtobuf();
  return siftd::Main(argc, argv);
}
