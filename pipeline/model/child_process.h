// SPDX-License-Identifier: Apache-2.0
// ChildProcess: a program that was started with one end of a Unix stream socket as its fd 3, and
// the other end. It inherits nothing else: stdin is /dev/null, stdout goes to our stderr, no signal
// is blocked, and it has a process group of its own, so that Ctrl-C in a terminal reaches only us.
// One thread at a time. Every wait ends at its deadline, when the child dies, and when `stop_fd` is
// readable.
#pragma once

#include <sys/types.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"

namespace siftd {

class ChildProcess {
 public:
  // `command[0]` is searched on PATH. `stop_fd` outlives it. Does not wait for the child.
  static Result<std::unique_ptr<ChildProcess>> Spawn(const std::vector<std::string>& command,
                                                     int stop_fd);
  ~ChildProcess();  // kills it
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  bool alive() const;

  // All of it. kUnavailable: the child ended or closed its socket; kDeadlineExceeded; kCancelled:
  // stop_fd. After any error the stream is at an unknown place: Kill.
  Status Write(const std::vector<std::span<const std::uint8_t>>& parts, MonoTime deadline);
  Status Read(void* to, std::size_t bytes, MonoTime deadline);

  // Waits `grace` for the child to end by itself, then kills it with all that it started. "ended
  // with exit code 1", "was ended by signal 11 (Segmentation fault)", "was killed". Once.
  std::string Kill(Duration grace);

 private:
  ChildProcess(pid_t pid, int socket, int stop_fd);
  Status Wait(short events, MonoTime deadline);

  const pid_t pid_;
  const int stop_fd_;
  int socket_;
  int pid_fd_;
  bool ended_ = false;   // seen by Wait
  bool reaped_ = false;  // pid_ is no longer ours
};

}  // namespace siftd
