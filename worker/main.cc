// SPDX-License-Identifier: Apache-2.0
// The siftd program: reads the command line and constructs the parts in plain sight.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "pipeline/wire/codec.h"
#include "worker/config.h"
#include "worker/config_flags.h"
#include "worker/exit_code.h"
#include "worker/keygen_command.h"
#include "worker/library_versions.h"
#include "worker/state_command.h"
#include "worker/status_command.h"
#include "worker/worker_command.h"

namespace siftd {
namespace {

constexpr char kExitCodes[] =
    "exit codes: 0 ok, 1 failure, 2 usage, 3 configuration, 4 a worker can't be reached";

int Fail(const char* command, const Status& status, int code) {
  std::fprintf(stderr, "siftd %s: %s\n", command, status.message().c_str());
  return code;
}

int CheckConfig(const std::string& path) {
  WorkerConfig config;
  Status status = ReadConfigFile(path, &config);
  if (status.ok()) status = config.Validate();
  if (status.ok()) status = CheckKeyFiles(config);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message().c_str());
    return kExitConfig;
  }
  std::printf("%s: ok\n", path.c_str());
  return kExitOk;
}

int Main(int argc, char** argv) {
  CLI::App app("siftd: decides, while a model trains, which samples are worth a training step.");
  app.require_subcommand(1);
  app.footer(std::string("examples:\n"
                         "  siftd worker --artifact scorer.pt --endpoint tcp://127.0.0.1:7001 "
                         "--http 127.0.0.1:9100\n"
                         "  siftd status tcp://127.0.0.1:7001\n"
                         "  siftd config check configs/worker.textproto\n\n") +
             kExitCodes);

  CLI::App* worker = app.add_subcommand(
      "worker", "Serve: score candidate batches and return verdicts or kept rows");
  worker->footer(
      "example: siftd worker --config configs/worker.textproto --artifact scorer.pt --threads 2");
  ConfigFlags worker_flags;
  worker_flags.AddTo(worker);
  int parent_pid = 0;
  worker->add_option("--parent-pid", parent_pid, "Drain and end when this process ends");

  CLI::App* config =
      app.add_subcommand("config", "Check a config file, or show the effective configuration");
  config->require_subcommand(1);
  config->footer(
      "examples:\n  siftd config check worker.textproto\n  siftd config show --config "
      "worker.textproto --threads 2");
  CLI::App* check = config->add_subcommand("check", "Report errors with line and field");
  std::string path;
  check->add_option("FILE", path)->required();
  CLI::App* show = config->add_subcommand("show", "Print every field: flag > file > default");
  ConfigFlags show_flags;
  show_flags.AddTo(show);

  CLI::App* status =
      app.add_subcommand("status", "Show model, keep rate, queues, stages and peers of workers");
  status->footer("example: siftd status --json tcp://127.0.0.1:7001 tcp://127.0.0.1:7002");
  StatusOptions asked;
  int timeout_ms = 3000;
  status->add_option("ENDPOINT", asked.endpoints)->required();
  status->add_flag("--json", asked.json, "One JSON list on standard output");
  status->add_option("--keys", asked.keys, "Secret key file of a monitor, for workers with keys")
      ->envname("SIFTD_KEYS");
  status
      ->add_option("--worker-key", asked.worker_key,
                   "The workers' public key file; default: worker.key beside --keys")
      ->envname("SIFTD_WORKER_KEY");
  status->add_option("--timeout-ms", timeout_ms, "Wait for answers at most this long")
      ->check(CLI::Range(1, 600000));

  CLI::App* state = app.add_subcommand("state", "Look into a trainer's saved state");
  state->require_subcommand(1);
  CLI::App* state_show = state->add_subcommand(
      "show", "Print what is trained, per loader and pass; tensors as types and shapes");
  state_show->footer(
      "examples:\n  siftd state show run/step-100/state.siftd   # of a C++ trainer\n"
      "  siftd state show checkpoint.pt                # of torch.save, by python3 -m siftd");
  std::string state_path;
  state_show->add_option("FILE", state_path)->required();
  CLI::App* keygen = app.add_subcommand("keygen", "Make key files for encrypted connections");
  keygen->require_subcommand(1);
  keygen->footer(
      "examples:\n  siftd keygen worker keys\n"
      "  siftd keygen client keys --name alice --role loader --role publisher\n"
      "A drop-in trainer needs loader and publisher, a stream's trainer trainer and publisher, a\n"
      "loader process loader, `siftd status` monitor. SECURITY.md says more.");
  KeygenOptions made;
  CLI::App* worker_keys =
      keygen->add_subcommand("worker", "A worker's pair, and folders for clients");
  worker_keys->footer("example: siftd keygen worker keys");
  CLI::App* client_keys =
      keygen->add_subcommand("client", "A client's pair, allowed in some roles");
  client_keys->footer("example: siftd keygen client keys --name alice --role loader");
  for (CLI::App* command : {worker_keys, client_keys}) {
    command->add_option("DIR", made.folder, "Folder of the keys; made if it is not there")
        ->required();
    command->add_flag("--force", made.force, "Replace keys that are there");
  }
  client_keys->add_option("--name", made.name, "In file names and logs")->required();
  client_keys
      ->add_option("--role", made.roles, "loader, trainer, publisher or monitor; may be repeated")
      ->required();

  CLI::App* version =
      app.add_subcommand("version", "Versions of siftd and of every library linked");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kExitOk : kExitUsage;
  }
  if (*version) {
    std::fputs(LibraryVersions().c_str(), stdout);
    return kExitOk;
  }
  if (*state_show) return ShowState(state_path);
  asked.timeout = milliseconds(timeout_ms);
  if (*status) return RunStatus(asked);
  if (*worker_keys) return RunKeygenWorker(made);
  if (*client_keys) return RunKeygenClient(made);
  if (*check) return CheckConfig(path);
  auto effective = (*show ? show_flags : worker_flags).Resolve();
  if (!effective.ok())
    return Fail(*show ? "config show" : "worker", effective.status(), kExitConfig);
  if (*show) {
    std::fputs(ConfigText(*effective).c_str(), stdout);
    return kExitOk;
  }
  return RunWorker(*effective, parent_pid);
}

}  // namespace
}  // namespace siftd

int main(int argc, char** argv) {
  siftd::QuietProtobuf();
  try {
    return siftd::Main(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "siftd: %s\n", e.what());
    return siftd::kExitFailure;
  }
}
