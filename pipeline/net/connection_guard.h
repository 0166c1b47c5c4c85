// SPDX-License-Identifier: Apache-2.0
// ConnectionGuard: cuts those TCP connections of a bound socket that libzmq would keep whatever
// they do: one whose message never ends (libzmq gathers all its frames, and no high-water mark
// counts them) and one that says nothing. It reads the kernel's byte counts of this process's
// sockets; libzmq then sees a connection that its peer closed. ipc:// has no such counts and is
// left alone. One thread (the I/O thread). It never reads or writes a byte of a connection.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <unordered_map>

#include "pipeline/base/clock.h"

namespace siftd::net {

struct GuardLimits {
  std::uint64_t unfinished_bytes = 0;  // received without a message that is complete; 0 = no limit
  Duration silence{};                  // without any message; 0 = no limit
};

// Connections that were cut, over the life of the endpoint.
struct Cuts {
  std::uint64_t unfinished = 0;
  std::uint64_t silent = 0;
};

class ConnectionGuard {
 public:
  // `endpoint`: as bound, with the real port.
  ConnectionGuard(const std::string& endpoint, const GuardLimits& limits);

  // A message was taken from the connection with this descriptor; -1 = none is known.
  void Delivered(int fd);
  // Looks at all connections if it is time to.
  void Look(MonoTime now);
  MonoTime next_look() const { return next_look_; }
  const Cuts& cuts() const { return cuts_; }

 private:
  struct Connection {
    ino_t inode = 0;  // 0: not looked at yet
    bool ours = false;
    bool delivered = false;  // since the last look
    bool spoke = false;
    bool cut = false;
    MonoTime since{};        // first seen
    std::uint64_t base = 0;  // bytes received up to the last complete message, or a little more
    std::uint64_t look = 0;  // number of the last look that found it
  };

  void LookAt(int fd, Connection& connection, MonoTime now);
  bool IsOurs(int fd) const;

  int port_ = 0;  // 0: not tcp, nothing is watched
  const GuardLimits limits_;
  std::unordered_map<int, Connection> connections_;  // by descriptor, other sockets included
  std::uint64_t looks_ = 0;
  bool suspicious_ = false;
  MonoTime next_look_ = MonoTime::max();
  Cuts cuts_;
};

}  // namespace siftd::net
