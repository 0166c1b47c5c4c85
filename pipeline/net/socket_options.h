// SPDX-License-Identifier: Apache-2.0
// What every socket of siftd has in common, and messages <-> Frames. Internal to pipeline/net.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <zmq.hpp>

#include "pipeline/base/frame.h"

namespace siftd::net {

struct SocketLimits {
  std::int64_t max_frame_bytes = 256ll << 20;
  int high_water_mark = 128;  // messages; a fuse above the credit windows, never the flow control
  std::size_t max_frames = 34;
};

// Heartbeats of ZMTP stay off: they lose data under back-pressure in every released libzmq.
void Configure(zmq::socket_t& socket, const SocketLimits& limits);

enum class ReceiveOutcome { kNothing, kMessage, kTooManyFrames };

// All parts of the next message, without waiting. Parts beyond limits.max_frames are read and let
// go of. `source`, if given: the connection's descriptor, -1 if none is known.
ReceiveOutcome ReceiveAll(zmq::socket_t& socket, std::size_t max_frames, Frames* frames,
                          int* source = nullptr);

// What libzmq knows of the sender of a part that ReceiveAll gave ("User-Id", "Peer-Address");
// empty: nothing.
std::string Property(const Frame& part, const char* name);

// A message part that shares the Frame's bytes; small ones are copied.
zmq::message_t ToPart(const Frame& frame);

enum class SendOutcome { kSent, kNotNow, kUnreachable };

// Sends `frames` as one message after the parts already sent with sndmore, without waiting.
[[nodiscard]] SendOutcome SendAll(zmq::socket_t& socket, const Frames& frames);

}  // namespace siftd::net
