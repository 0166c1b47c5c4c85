// SPDX-License-Identifier: Apache-2.0
#include "worker/watch.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <utility>

namespace siftd {
namespace {

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void Watch::BlockSignals() {
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

Watch::Watch(int parent_pid, std::function<void(const std::string&)> on_stop)
    : parent_pid_(parent_pid), on_stop_(std::move(on_stop)) {
  const sigset_t set = StopSignals();
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC);
  end_fd_ = eventfd(0, EFD_CLOEXEC);
  // A pidfd, not PDEATHSIG: that one follows the thread that forked, not the process.
  if (parent_pid_ > 0) parent_fd_ = static_cast<int>(syscall(SYS_pidfd_open, parent_pid_, 0));
  thread_ = Thread("siftd-watch", [this] { Run(); });
}

Watch::~Watch() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = write(end_fd_, &one, sizeof(one));
  thread_.Join();
  for (const int fd : {signal_fd_, parent_fd_, end_fd_}) {
    if (fd >= 0) close(fd);
  }
}

void Watch::Run() {
  bool told = false;
  const auto tell = [&](const std::string& reason) {
    if (!std::exchange(told, true)) on_stop_(reason);
  };
  if (parent_pid_ > 0 && parent_fd_ < 0)
    tell("parent process " + std::to_string(parent_pid_) + " is gone");
  while (true) {
    // A negative fd is ignored.
    pollfd fds[] = {{signal_fd_, POLLIN, 0}, {parent_fd_, POLLIN, 0}, {end_fd_, POLLIN, 0}};
    if (poll(fds, 3, -1) < 0 && errno != EINTR) return;
    if (fds[2].revents != 0) return;
    if (fds[0].revents != 0) {
      signalfd_siginfo info{};
      if (read(signal_fd_, &info, sizeof(info)) == sizeof(info)) {
        if (told) _exit(128 + static_cast<int>(info.ssi_signo));
        tell(info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
      }
    }
    if (fds[1].revents != 0) {
      close(std::exchange(parent_fd_, -1));
      tell("parent process " + std::to_string(parent_pid_) + " ended");
    }
  }
}

}  // namespace siftd
