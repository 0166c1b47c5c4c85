// SPDX-License-Identifier: Apache-2.0
// RouterEndpoint: the one ROUTER socket that a worker binds. It moves frames and knows peers by
// handles; it never looks into a message. One thread, the one that creates it (the I/O thread),
// makes every call but BoundEndpoint. A peer's handle is never used again: a peer that connects
// anew is another peer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "pipeline/base/clock.h"
#include "pipeline/base/frame.h"
#include "pipeline/base/status.h"
#include "pipeline/net/connection_guard.h"
#include "pipeline/net/wakeup.h"

namespace siftd {

struct RouterOptions {
  std::string endpoint = "tcp://127.0.0.1:0";  // tcp:// or ipc://; port 0 = any
  bool insecure_plaintext = false;             // allows a tcp address other than loopback
  std::int64_t max_frame_bytes = 256ll << 20;
  int high_water_mark = 128;  // messages per peer
  net::GuardLimits guard;     // beyond them a connection is cut
};

class RouterEndpoint {
 public:
  static Result<std::unique_ptr<RouterEndpoint>> Bind(const RouterOptions& options);
  ~RouterEndpoint();
  RouterEndpoint(const RouterEndpoint&) = delete;
  RouterEndpoint& operator=(const RouterEndpoint&) = delete;

  // With the real port.
  const std::string& BoundEndpoint() const;

  // Until a message is there, `wakeup` was woken, or the time is over.
  void Poll(Duration timeout, const Wakeup& wakeup);

  struct Received {
    std::uint64_t peer = 0;
    Frames frames;
    bool too_many_frames = false;  // frames holds the first ones
  };
  // False: nothing is there now.
  bool Receive(Received* out);

  enum class Sent { kSent, kUnreachable };
  // kUnreachable: the peer is gone, or its queue is full, which its credit rules out; the handle is
  // forgotten.
  [[nodiscard]] Sent Send(std::uint64_t peer, const Frames& frames);
  // Connections that the guard cut.
  const net::Cuts& cuts() const;
  // Nothing is sent to it any more.
  void Forget(std::uint64_t peer);

 private:
  struct Impl;
  explicit RouterEndpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
