// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

namespace siftd {
namespace {

constexpr int kChildFd = 3;
constexpr std::size_t kPartsPerCall = 512;  // below IOV_MAX

std::string ErrnoText(int error) { return std::strerror(error); }

// Frees what posix_spawn needs, whatever happened.
struct SpawnPlan {
  SpawnPlan() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

void Fill(int child_end, SpawnPlan* plan) {
  posix_spawn_file_actions_addopen(&plan->actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&plan->actions, 2, 1);
  // Also clears FD_CLOEXEC when it is that number already.
  posix_spawn_file_actions_adddup2(&plan->actions, child_end, kChildFd);
#ifdef __GLIBC_PREREQ
#if __GLIBC_PREREQ(2, 34)
  // Our own are FD_CLOEXEC; those of libraries may not be.
  posix_spawn_file_actions_addclosefrom_np(&plan->actions, kChildFd + 1);
#endif
#endif
  sigset_t none;
  sigemptyset(&none);
  sigset_t all;
  sigfillset(&all);
  posix_spawnattr_setsigmask(&plan->attributes, &none);
  posix_spawnattr_setsigdefault(&plan->attributes, &all);
  posix_spawnattr_setpgroup(&plan->attributes, 0);
  posix_spawnattr_setflags(&plan->attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
}

int PollMs(MonoTime deadline) {
  if (deadline == MonoTime::max()) return -1;
  const auto left = std::chrono::ceil<milliseconds>(deadline - Now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1 << 30));
}

}  // namespace

Result<std::unique_ptr<ChildProcess>> ChildProcess::Spawn(const std::vector<std::string>& command,
                                                          int stop_fd) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return Unavailable("no socket pair for a child process: " + ErrnoText(errno));
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  SpawnPlan plan;
  Fill(ends[1], &plan);
  pid_t pid = -1;
  const int error =
      posix_spawnp(&pid, argv[0], &plan.actions, &plan.attributes, argv.data(), environ);
  close(ends[1]);
  if (error != 0) {
    close(ends[0]);
    return NotFound("cannot start '" + command[0] + "': " + ErrnoText(error));
  }
  return std::unique_ptr<ChildProcess>(new ChildProcess(pid, ends[0], stop_fd));
}

ChildProcess::ChildProcess(pid_t pid, int socket, int stop_fd)
    : pid_(pid),
      stop_fd_(stop_fd),
      socket_(socket),
      pid_fd_(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))) {
  fcntl(socket_, F_SETFL, fcntl(socket_, F_GETFL) | O_NONBLOCK);
}

ChildProcess::~ChildProcess() {
  if (!reaped_) Kill({});
  close(pid_fd_);
}

bool ChildProcess::alive() const {
  if (reaped_) return false;
  siginfo_t info{};
  return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0;
}

// A child's end is seen by its pidfd also when a process of its own still holds the socket.
Status ChildProcess::Wait(short events, MonoTime deadline) {
  if (ended_) return Unavailable("the child ended");
  pollfd fds[] = {{socket_, events, 0}, {pid_fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  while (true) {
    const int ready = poll(fds, 3, PollMs(deadline));
    if (ready < 0 && errno != EINTR) return Unavailable("poll: " + ErrnoText(errno));
    if (ready < 0) continue;
    if (fds[2].revents != 0) return Cancelled("the worker is ending");
    if (fds[1].revents != 0) ended_ = true;  // what it sent before is still to be read
    if (fds[0].revents != 0 || ended_) return OkStatus();
    if (Now() >= deadline) return DeadlineExceeded("no answer");
  }
}

Status ChildProcess::Write(const std::vector<std::span<const std::uint8_t>>& parts,
                           MonoTime deadline) {
  std::vector<iovec> left;
  for (const auto& part : parts) {
    if (!part.empty())
      left.push_back({const_cast<std::uint8_t*>(part.data()), part.size()});  // sendmsg only reads
  }
  std::size_t first = 0;
  while (first < left.size()) {
    msghdr message{};
    message.msg_iov = left.data() + first;
    message.msg_iovlen = std::min(left.size() - first, kPartsPerCall);
    const ssize_t sent = sendmsg(socket_, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) return Unavailable("the child closed its socket");
    if (sent < 0) {
      SIFTD_RETURN_IF_ERROR(Wait(POLLOUT, deadline));
      continue;
    }
    auto taken = static_cast<std::size_t>(sent);
    while (first < left.size() && taken >= left[first].iov_len) taken -= left[first++].iov_len;
    if (taken > 0) {
      left[first].iov_base = static_cast<std::uint8_t*>(left[first].iov_base) + taken;
      left[first].iov_len -= taken;
    }
  }
  return OkStatus();
}

Status ChildProcess::Read(void* to, std::size_t bytes, MonoTime deadline) {
  auto* at = static_cast<std::uint8_t*>(to);
  while (bytes > 0) {
    const ssize_t got = recv(socket_, at, bytes, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0 || (got < 0 && errno != EAGAIN)) return Unavailable("the child closed its socket");
    if (got < 0) {
      SIFTD_RETURN_IF_ERROR(Wait(POLLIN, deadline));
      continue;
    }
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return OkStatus();
}

std::string ChildProcess::Kill(Duration grace) {
  close(std::exchange(socket_, -1));
  pollfd ended{pid_fd_, POLLIN, 0};
  const MonoTime deadline = Now() + grace;
  while (poll(&ended, 1, PollMs(deadline)) < 0 && errno == EINTR) {
  }
  const bool by_us = alive();
  kill(-pid_, SIGKILL);  // also what it started itself; its group is there until it is reaped
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  reaped_ = true;
  if (by_us) return "was killed";
  if (WIFSIGNALED(status)) {
    return "was ended by signal " + std::to_string(WTERMSIG(status)) + " (" +
           strsignal(WTERMSIG(status)) + ")";
  }
  return "ended with exit code " + std::to_string(WEXITSTATUS(status));
}

}  // namespace siftd
