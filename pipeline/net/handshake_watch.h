// SPDX-License-Identifier: Apache-2.0
// HandshakeWatch: tells how the handshakes of one socket end (libzmq's monitor). Internal to
// pipeline/net. Made and ended on the socket's thread, before the socket connects or binds and
// before it is closed; Next: one thread, which reads at least every few seconds.
#pragma once

#include <cstdint>
#include <optional>
#include <zmq.hpp>

namespace siftd::net {

class HandshakeWatch {
 public:
  // `number`: of the watch, unlike any other's of the context.
  HandshakeWatch(zmq::context_t& context, zmq::socket_t& socket, std::uint64_t number);
  ~HandshakeWatch();
  HandshakeWatch(const HandshakeWatch&) = delete;
  HandshakeWatch& operator=(const HandshakeWatch&) = delete;

  enum class Outcome {
    kDone,
    kRefused,         // by the other side's ZAP, for this key
    kOtherMechanism,  // one side encrypts, the other does not
    kBroken,          // bytes or keys that do not fit
    kEnded            // the connection was closed meanwhile
  };
  // Without waiting; nothing: no handshake ended since.
  std::optional<Outcome> Next();
  // For a poll.
  zmq::socket_t& socket() { return events_; }

 private:
  zmq::socket_t& watched_;
  zmq::socket_t events_;
};

}  // namespace siftd::net
