// SPDX-License-Identifier: Apache-2.0
#include "worker/worker_command.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "pipeline/base/memory.h"
#include "worker/exit_code.h"
#include "worker/log.h"
#include "worker/watch.h"
#include "worker/worker.h"

namespace siftd {
namespace {

int Fail(const Status& status, int code) {
  std::fprintf(stderr, "siftd worker: %s\n", status.message().c_str());
  return code;
}

// Whole or not at all: a reader never sees half an endpoint.
Status WritePortFile(const std::string& path, const std::string& endpoint) {
  const std::string partial = path + ".partial";
  std::ofstream file(partial);
  file << endpoint << "\n";
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(partial, path, error);
  if (!file || error) return Unavailable("cannot write port_file '" + path + "'");
  return OkStatus();
}

// A connection costs a descriptor, and the usual soft limit of 1,024 is soon reached.
void RaiseDescriptorLimit() {
  constexpr rlim_t kEnough = 65536;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= kEnough) return;
  limit.rlim_cur = std::min(limit.rlim_max, kEnough);
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int RunWorker(const WorkerConfig& config, int parent_pid, ReplicaLoader load) {
  KeepFreedMemory();
  RaiseDescriptorLimit();
  Watch::BlockSignals();
  std::signal(SIGCHLD, SIG_DFL);  // where it came ignored, no child process could be waited for
  auto log = MakeLog(config, config.name.empty() ? "siftd" : config.name);
  if (!log.ok()) return Fail(log.status(), kExitConfig);
  std::atomic<Worker*> serving{nullptr};
  std::unique_ptr<Worker> worker;
  const Watch watch(parent_pid, [&](const std::string& reason) {
    if (Worker* w = serving) return w->RequestStop(reason);
    std::fprintf(stderr, "siftd worker: %s while the scorer was loading\n", reason.c_str());
    std::_Exit(kExitFailure);  // nothing was served yet; its child processes end by themselves
  });
  auto created = Worker::Create(config, *log, std::move(load));
  if (!created.ok()) {
    return Fail(created.status(),
                created.status().code() == Code::kInvalidArgument ? kExitConfig : kExitFailure);
  }
  worker = std::move(*created);
  serving = worker.get();
  if (!config.port_file.empty()) {
    if (const Status s = WritePortFile(config.port_file, worker->endpoint()); !s.ok()) {
      return Fail(s, kExitFailure);
    }
  }
  std::printf("siftd worker ready endpoint=%s http=%s device=%s pid=%d\n",
              worker->endpoint().c_str(), worker->http().empty() ? "-" : worker->http().c_str(),
              config.device.c_str(), getpid());
  std::fflush(stdout);
  worker->Run();
  (*log)->info("ended");
  return kExitOk;
}

}  // namespace siftd
