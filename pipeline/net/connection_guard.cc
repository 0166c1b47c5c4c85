// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/connection_guard.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>

namespace siftd::net {
namespace {

constexpr Duration kLookEvery = milliseconds(100);
constexpr Duration kLookSoon = milliseconds(20);  // while a connection has used up a quarter

std::optional<ino_t> SocketInode(int fd) {
  struct stat about {};
  if (fstat(fd, &about) != 0 || !S_ISSOCK(about.st_mode)) return std::nullopt;
  return about.st_ino;
}

std::optional<std::uint64_t> BytesReceived(int fd) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return std::nullopt;
  if (size < offsetof(tcp_info, tcpi_bytes_received) + sizeof(info.tcpi_bytes_received))
    return std::nullopt;  // a kernel before 4.1
  return info.tcpi_bytes_received;
}

// False: the descriptor means another socket by now. It is libzmq's, which may close it any time:
// by a reset, since a peer that waits for a window that is full would wait for a minute after a
// FIN.
bool ShutDown(int fd, ino_t inode) {
  const int same = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (same < 0) return false;
  const bool is_it = SocketInode(same) == inode;
  if (is_it) {
    constexpr linger kReset{1, 0};
    setsockopt(same, SOL_SOCKET, SO_LINGER, &kReset, sizeof(kReset));
    shutdown(same, SHUT_RDWR);
  }
  close(same);
  return is_it;
}

}  // namespace

ConnectionGuard::ConnectionGuard(const std::string& endpoint, const GuardLimits& limits)
    : limits_(limits) {
  const std::size_t colon = endpoint.rfind(':');
  if (endpoint.rfind("tcp://", 0) != 0 || colon == std::string::npos) return;
  std::from_chars(endpoint.data() + colon + 1, endpoint.data() + endpoint.size(), port_);
  if (limits.unfinished_bytes > 0 || limits.silence > Duration::zero())
    next_look_ = Now() + kLookEvery;
}

void ConnectionGuard::Delivered(int fd) {
  if (fd >= 0 && port_ != 0) connections_[fd].delivered = true;
}

bool ConnectionGuard::IsOurs(int fd) const {
  sockaddr_storage local{};
  sockaddr_storage peer{};
  socklen_t size = sizeof(local);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) != 0) return false;
  size = sizeof(peer);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return false;  // it listens
  in_port_t port = 0;
  if (local.ss_family == AF_INET) port = reinterpret_cast<const sockaddr_in*>(&local)->sin_port;
  if (local.ss_family == AF_INET6) port = reinterpret_cast<const sockaddr_in6*>(&local)->sin6_port;
  return ntohs(port) == port_;
}

void ConnectionGuard::Look(MonoTime now) {
  if (now < next_look_ || port_ == 0) return;
  ++looks_;
  suspicious_ = false;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/fd"), closedir);
  while (const dirent* entry = folder == nullptr ? nullptr : readdir(folder.get())) {
    int fd = -1;
    const char* const name = entry->d_name;
    if (std::from_chars(name, name + std::strlen(name), fd).ec != std::errc()) continue;
    const auto inode = SocketInode(fd);
    if (!inode) continue;
    Connection& c = connections_[fd];
    if (c.inode != *inode) {
      const bool delivered = c.inode == 0 && c.delivered;
      c = {.inode = *inode, .ours = IsOurs(fd), .delivered = delivered, .since = now};
    }
    c.look = looks_;
    if (c.ours && !c.cut) LookAt(fd, c, now);
  }
  std::erase_if(connections_, [this](const auto& c) { return c.second.look != looks_; });
  next_look_ = now + (suspicious_ ? kLookSoon : kLookEvery);
}

void ConnectionGuard::LookAt(int fd, Connection& c, MonoTime now) {
  const auto received = BytesReceived(fd);
  if (!received) return;
  if (c.delivered) {
    c.delivered = false;
    c.spoke = true;
    c.base = *received;
    return;
  }
  const std::uint64_t unfinished = *received - std::min(*received, c.base);
  const std::uint64_t most = limits_.unfinished_bytes;
  if (most > 0 && unfinished > most) {
    c.cut = ShutDown(fd, c.inode);
    if (c.cut) ++cuts_.unfinished;
  } else if (!c.spoke && limits_.silence > Duration::zero() && now - c.since > limits_.silence) {
    c.cut = ShutDown(fd, c.inode);
    if (c.cut) ++cuts_.silent;
  }
  suspicious_ = suspicious_ || (most > 0 && unfinished > most / 4);
}

}  // namespace siftd::net
