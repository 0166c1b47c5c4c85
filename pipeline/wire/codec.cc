// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/codec.h"

#include <cstring>
#include <string>

#include "pipeline/wire/limits.h"
#include "pipeline/wire/message_codec.h"

namespace siftd {
namespace {

template <typename Proto>
Result<Message> DecodeAs(const Frames& frames) {
  Proto proto;
  if (!proto.ParseFromArray(frames[1].data(), static_cast<int>(frames[1].size()))) {
    return InvalidArgument("header is no " + Proto::descriptor()->name() + " message (" +
                           std::to_string(frames[1].size()) + " bytes)");
  }
  auto message = wire::From(proto, frames);
  if (!message.ok()) {
    return InvalidArgument(Proto::descriptor()->name() + ": " + message.status().message());
  }
  return Message(std::move(message).value());
}

// Type byte and protobuf message of each alternative of Message.
template <typename T>
struct Wire;
#define SIFTD_WIRE(cpp, proto, number)                   \
  template <>                                            \
  struct Wire<cpp> {                                     \
    using Proto = v1::proto;                             \
    static constexpr v1::MessageType kType = v1::number; \
  }
SIFTD_WIRE(Hello, Hello, HELLO);
SIFTD_WIRE(Welcome, Welcome, WELCOME);
SIFTD_WIRE(Credit, Credit, CREDIT);
SIFTD_WIRE(Candidates, Candidates, CANDIDATES);
SIFTD_WIRE(Selected, Selected, SELECTED);
SIFTD_WIRE(Verdict, Verdict, VERDICT);
SIFTD_WIRE(Ack, Ack, ACK);
SIFTD_WIRE(Settled, Settled, SETTLED);
SIFTD_WIRE(Return, Return, RETURN);
SIFTD_WIRE(EpochEnd, EpochEnd, EPOCH_END);
SIFTD_WIRE(EpochAck, EpochAck, EPOCH_ACK);
SIFTD_WIRE(PositionRequest, PositionRequest, POSITION_REQUEST);
SIFTD_WIRE(Position, Position, POSITION);
SIFTD_WIRE(ModelBegin, ModelBegin, MODEL_BEGIN);
SIFTD_WIRE(ModelChunk, ModelChunk, MODEL_CHUNK);
SIFTD_WIRE(ModelCommit, ModelCommit, MODEL_COMMIT);
SIFTD_WIRE(ModelAck, ModelAck, MODEL_ACK);
SIFTD_WIRE(StatusRequest, Status, STATUS);
SIFTD_WIRE(StatusReply, StatusReply, STATUS_REPLY);
SIFTD_WIRE(Heartbeat, Heartbeat, HEARTBEAT);
SIFTD_WIRE(Drain, Drain, DRAIN);
SIFTD_WIRE(Goodbye, Goodbye, GOODBYE);
SIFTD_WIRE(ErrorMessage, Error, ERROR);
#undef SIFTD_WIRE

template <typename... T>
Result<Message> Dispatch(int type, const Frames& frames, std::variant<T...>* /*alternatives*/) {
  Result<Message> result = wire::Refuse("type", std::to_string(type), "1 to 23 (enum MessageType)");
  (void)((type == static_cast<int>(Wire<T>::kType) &&
          (result = DecodeAs<typename Wire<T>::Proto>(frames), true)) ||
         ...);
  return result;
}

}  // namespace

Result<Message> Decode(const Frames& frames) {
  if (frames.size() < 2 || frames.size() > limits::kMaxFrames) {
    return wire::Refuse("frames", std::to_string(frames.size()), "2 to " + std::to_string(limits::kMaxFrames));
  }
  const Frame& preamble = frames[0];
  if (preamble.size() != limits::kPreambleBytes) {
    return wire::Refuse("preamble's bytes", std::to_string(preamble.size()), "8");
  }
  if (std::memcmp(preamble.data(), limits::kMagic, sizeof(limits::kMagic)) != 0) {
    return InvalidArgument("preamble does not begin with \"SFTD\"");
  }
  if (preamble.data()[4] != limits::kMajor) {
    return wire::Refuse("major", std::to_string(preamble.data()[4]), std::to_string(limits::kMajor));
  }
  if (preamble.data()[6] != 0 || preamble.data()[7] != 0) {
    return wire::Refuse("flags", std::to_string(preamble.data()[6] | preamble.data()[7] << 8), "0");
  }
  if (frames[1].size() > limits::kMaxHeaderBytes) {
    return wire::Refuse("header's bytes", std::to_string(frames[1].size()),
                        "at most " + std::to_string(limits::kMaxHeaderBytes));
  }
  return Dispatch(preamble.data()[5], frames, static_cast<Message*>(nullptr));
}

Frames Encode(const Message& message) {
  return std::visit(
      [](const auto& m) {
        using W = Wire<std::decay_t<decltype(m)>>;
        Frames frames(2);
        typename W::Proto proto;
        wire::To(m, &proto, &frames);
        std::vector<std::uint8_t> preamble(limits::kMagic, limits::kMagic + sizeof(limits::kMagic));
        preamble.insert(preamble.end(), {limits::kMajor, static_cast<std::uint8_t>(W::kType), 0, 0});
        frames[0] = Frame::Adopt(std::move(preamble));
        frames[1] = Frame::Adopt(proto.SerializeAsString());
        return frames;
      },
      message);
}

std::string_view MessageName(const Message& message) {
  return std::visit(
      [](const auto& m) -> std::string_view {
        return Wire<std::decay_t<decltype(m)>>::Proto::descriptor()->name();
      },
      message);
}

}  // namespace siftd
