// SPDX-License-Identifier: Apache-2.0
// RouterEndpoint: the one ROUTER socket that a worker binds, with CURVE if it has keys. It moves
// frames and knows peers by handles, and by key and address; it never looks into a message. One
// thread, the one that creates it (the I/O thread), makes every call but BoundEndpoint. A peer's
// handle is never used again: a peer that connects anew is another peer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/frame.h"
#include "pipeline/base/status.h"
#include "pipeline/data/peer_rights.h"
#include "pipeline/net/connection_guard.h"
#include "pipeline/net/wakeup.h"

namespace siftd {

struct RouterOptions {
  std::string endpoint = "tcp://127.0.0.1:0";  // tcp:// or ipc://; port 0 = any
  bool insecure_plaintext = false;             // allows a tcp address other than loopback
  std::int64_t max_frame_bytes = 256ll << 20;
  int high_water_mark = 128;  // messages per peer
  net::GuardLimits guard;     // beyond them a connection is cut

  // With both, connections are encrypted, and only keys of the folder connect.
  std::string key_file;                         // secret, of this end
  std::string client_keys;                      // folder: KeyRing
  double handshakes = 200;                      // a second of one key, on average
  std::function<void(const std::string&)> log;  // whom the gate turned away; any thread
};

class RouterEndpoint {
 public:
  static Result<std::unique_ptr<RouterEndpoint>> Bind(const RouterOptions& options);
  // Messages that were just sent get 200 ms to leave.
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
    bool fresh = false;            // its first message: Rights says who it is
  };
  // False: nothing is there now.
  bool Receive(Received* out);

  // Of a peer that something came from; as the key files are now.
  PeerRights Rights(std::uint64_t peer) const;
  // Peers whose rights changed since the last call.
  std::vector<std::uint64_t> TakeChanged();
  // Handshakes that were refused.
  std::uint64_t refused_handshakes() const;

  enum class Sent { kSent, kUnreachable };
  // kUnreachable: the peer is gone, or its queue is full, which its credit rules out; the handle is
  // forgotten.
  [[nodiscard]] Sent Send(std::uint64_t peer, const Frames& frames);
  // Connections that the guard cut.
  const net::Cuts& cuts() const;
  // Nothing is sent to it any more.
  void Forget(std::uint64_t peer);
  // Neither is anything taken from it. It stays connected, as libzmq can't close one connection of
  // a ROUTER; a new one of it is another peer.
  void Cut(std::uint64_t peer);

 private:
  struct Impl;
  explicit RouterEndpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
