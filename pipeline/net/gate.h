// SPDX-License-Identifier: Apache-2.0
// Gate: who may connect to a worker's ROUTER. It answers libzmq's questions about keys (ZAP, RFC
// 27) from a KeyRing, which it reads again when its folder changes, and counts whom it turned away.
// On a thread of its own, so that handshakes never hold up data. Internal to pipeline/net. Guard,
// Stop, destructor: the ROUTER's thread; the figures: any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <zmq.hpp>

#include "pipeline/base/rate_limit.h"
#include "pipeline/base/thread.h"
#include "pipeline/net/handshake_watch.h"
#include "pipeline/net/key_files.h"
#include "pipeline/net/key_ring.h"
#include "pipeline/net/wakeup.h"

namespace siftd::net {

class Gate {
 public:
  // `handshakes`: a second of one key, on average. `log`: one line each, called on the gate's
  // thread.
  Gate(zmq::context_t& context, std::unique_ptr<KeyRing> ring, double handshakes,
       std::function<void(const std::string&)> log);
  ~Gate();
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  // From now on only keys of the ring connect to `router`. Before its bind, once.
  void Guard(zmq::socket_t& router, const CurveKeys& own);
  // Before the router is closed.
  void Stop();

  const KeyRing& ring() const { return *ring_; }
  // Handshakes that failed by key, by encryption, or came too often.
  std::uint64_t refused() const { return refused_; }

 private:
  void Run();
  void Answer();
  // The ZAP status code of a key at `address`, and what to log unless it is let in.
  std::string Judge(const std::string& key, const std::string& address, std::string* why);
  void Look();
  void TurnAway(const std::string& why);
  void Tell(const std::string& line);

  zmq::context_t& context_;
  const std::unique_ptr<KeyRing> ring_;
  const std::function<void(const std::string&)> log_;
  zmq::socket_t asked_;  // the thread's, like the next ones
  RateLimit handshakes_;
  MonoTime looked_{};
  MonoTime told_{};
  std::uint64_t untold_ = 0;
  std::optional<HandshakeWatch> watch_;
  std::atomic<std::uint64_t> refused_{0};
  std::atomic<bool> stopping_{false};
  Wakeup wakeup_;
  Thread thread_;
};

}  // namespace siftd::net
