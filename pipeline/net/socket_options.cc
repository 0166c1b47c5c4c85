// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/socket_options.h"

#include <memory>

namespace siftd::net {
namespace {

constexpr std::size_t kCopyBelow =
    std::size_t{16} * 1024;  // bytes; sharing costs an allocation and a refcount

}  // namespace

void Configure(zmq::socket_t& socket, const SocketLimits& limits) {
  socket.set(zmq::sockopt::linger, 0);
  socket.set(zmq::sockopt::maxmsgsize, limits.max_frame_bytes);
  socket.set(zmq::sockopt::sndhwm, limits.high_water_mark);
  socket.set(zmq::sockopt::rcvhwm, limits.high_water_mark);
  socket.set(zmq::sockopt::handshake_ivl, 5000);
  socket.set(zmq::sockopt::tcp_keepalive, 1);
  socket.set(zmq::sockopt::tcp_keepalive_idle, 60);
  socket.set(zmq::sockopt::tcp_keepalive_intvl, 10);
  socket.set(zmq::sockopt::tcp_keepalive_cnt, 3);
}

ReceiveOutcome ReceiveAll(zmq::socket_t& socket, std::size_t max_frames, Frames* frames,
                          int* source) {
  frames->clear();
  bool too_many = false;
  while (true) {
    auto part = std::make_shared<zmq::message_t>();
    // The parts of a message arrive together: only the first receive can find nothing.
    if (!socket.recv(*part, zmq::recv_flags::dontwait)) return ReceiveOutcome::kNothing;
    if (source != nullptr && frames->empty()) *source = zmq_msg_get(part->handle(), ZMQ_SRCFD);
    const bool more = part->more();
    if (frames->size() < max_frames) {
      const void* data = part->data();
      const std::size_t size = part->size();
      frames->emplace_back(std::shared_ptr<const void>(std::move(part)), data, size);
    } else {
      too_many = true;
    }
    if (!more) return too_many ? ReceiveOutcome::kTooManyFrames : ReceiveOutcome::kMessage;
  }
}

std::string Property(const Frame& part, const char* name) {
  // ReceiveAll's owner.
  const auto* message = static_cast<const zmq::message_t*>(part.owner().get());
  const char* value = zmq_msg_gets(message->handle(), name);
  return value == nullptr ? "" : value;
}

zmq::message_t ToPart(const Frame& frame) {
  if (frame.size() < kCopyBelow) return {frame.data(), frame.size()};
  auto* owner = new std::shared_ptr<const void>(frame.owner());
  return {const_cast<std::uint8_t*>(frame.data()), frame.size(),  // libzmq only reads it
          [](void*, void* hint) { delete static_cast<std::shared_ptr<const void>*>(hint); }, owner};
}

SendOutcome SendAll(zmq::socket_t& socket, const Frames& frames) {
  try {
    for (std::size_t i = 0; i < frames.size(); ++i) {
      const auto flags = zmq::send_flags::dontwait |
                         (i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
      zmq::message_t part = ToPart(frames[i]);
      // Only the first part can be refused; libzmq takes the rest of a message whole.
      if (!socket.send(part, flags)) return SendOutcome::kNotNow;
    }
    return SendOutcome::kSent;
  } catch (const zmq::error_t&) {
    return SendOutcome::kUnreachable;
  }
}

}  // namespace siftd::net
