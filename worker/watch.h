// SPDX-License-Identifier: Apache-2.0
// Watch: turns SIGTERM, SIGINT and the death of a parent process into a call, on a thread of its
// own. A second signal ends the process at once. BlockSignals must come before any thread is made.
#pragma once

#include <functional>
#include <string>

#include "pipeline/base/status.h"
#include "pipeline/base/thread.h"

namespace siftd {

class Watch {
 public:
  static void BlockSignals();

  // `on_stop` gets the reason, once. parent_pid 0: no parent is watched.
  Watch(int parent_pid, std::function<void(const std::string&)> on_stop);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  void Run();

  const int parent_pid_;
  const std::function<void(const std::string&)> on_stop_;
  int signal_fd_ = -1;
  int parent_fd_ = -1;
  int end_fd_ = -1;
  Thread thread_;
};

}  // namespace siftd
