// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/handshake_watch.h"

#include <cstring>
#include <string>

namespace siftd::net {
namespace {

constexpr int kEvents = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                        ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

}  // namespace

HandshakeWatch::HandshakeWatch(zmq::context_t& context, zmq::socket_t& socket, std::uint64_t number)
    : watched_(socket), events_(context, zmq::socket_type::pair) {
  const std::string at = "inproc://siftd-handshakes-" + std::to_string(number);
  if (zmq_socket_monitor(socket.handle(), at.c_str(), kEvents) != 0) throw zmq::error_t();
  events_.set(zmq::sockopt::linger, 0);
  events_.set(zmq::sockopt::rcvhwm, 0);  // libzmq's own thread would wait for room
  events_.connect(at);
}

HandshakeWatch::~HandshakeWatch() { zmq_socket_monitor(watched_.handle(), nullptr, 0); }

std::optional<HandshakeWatch::Outcome> HandshakeWatch::Next() {
  zmq::message_t event;
  zmq::message_t address;
  if (!events_.recv(event, zmq::recv_flags::dontwait)) return std::nullopt;
  if (event.more()) (void)events_.recv(address, zmq::recv_flags::dontwait);
  std::uint16_t kind = 0;
  std::uint32_t value = 0;
  if (event.size() < sizeof(kind) + sizeof(value)) return Outcome::kEnded;
  std::memcpy(&kind, event.data(), sizeof(kind));
  std::memcpy(&value, static_cast<const char*>(event.data()) + sizeof(kind), sizeof(value));
  if (kind == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) return Outcome::kDone;
  if (kind == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) return Outcome::kRefused;
  if (kind == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) return Outcome::kEnded;
  return value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH ? Outcome::kOtherMechanism
                                                             : Outcome::kBroken;
}

}  // namespace siftd::net
