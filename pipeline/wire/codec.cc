// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/codec.h"

#include <google/protobuf/arena.h>
#include <google/protobuf/io/coded_stream.h>

#include <array>
#include <cstring>
#include <memory>
#include <memory_resource>
#include <optional>
#include <string>
#include <type_traits>

#include "pipeline/base/hex.h"
#include "pipeline/wire/limits.h"
#include "pipeline/wire/message_codec.h"

namespace siftd {
namespace {

// Holds the protobuf message of most headers; larger ones take memory from the heap.
struct Scratch {
  alignas(16) std::array<char, 16 << 10> block;
  google::protobuf::Arena arena{block.data(), block.size()};
};

// Memory for `size` bytes of a header, used again once nobody shares the Frame. Frames may outlive
// every static object, so the pool is never destroyed.
std::shared_ptr<std::uint8_t[]> HeaderMemory(std::size_t size) {
  static auto& pool = *new std::pmr::synchronized_pool_resource({0, 64 << 10});
  return std::allocate_shared_for_overwrite<std::uint8_t[]>(
      std::pmr::polymorphic_allocator<std::uint8_t>(&pool), size);
}

template <typename Proto>
Frame Serialize(const Proto& proto) {
  const std::size_t size = proto.ByteSizeLong();
  auto bytes = HeaderMemory(size);
  proto.SerializeWithCachedSizesToArray(bytes.get());
  const void* data = bytes.get();
  return {std::move(bytes), data, size};
}

// Countless tiny fields would take far more memory than they have bytes.
Status CheckFields(const Frame& header) {
  if (header.size() <= 2 * limits::kMaxHeaderFields) return OkStatus();  // a field has two at least
  google::protobuf::io::CodedInputStream in(header.data(), static_cast<int>(header.size()));
  std::size_t fields = 0;
  bool sound = true;
  while (sound && fields <= limits::kMaxHeaderFields) {
    const std::uint32_t tag = in.ReadTagNoLastTag();
    if (tag == 0) break;  // the end, or no tag: the parser tells which
    ++fields;
    std::uint64_t varint = 0;
    std::uint32_t size = 0;
    switch (tag & 7) {
      case 0:
        sound = in.ReadVarint64(&varint);
        break;
      case 1:
        sound = in.Skip(8);
        break;
      case 2:
        sound = in.ReadVarint32(&size) && size <= header.size() && in.Skip(static_cast<int>(size));
        break;
      case 5:
        sound = in.Skip(4);
        break;
      default:
        sound = false;
    }
  }
  if (!sound) return wire::Refuse("header", "broken", "valid protobuf");
  return wire::CheckAtMost("header's fields", fields, limits::kMaxHeaderFields);
}

template <typename Proto>
Result<Message> DecodeAs(const Frames& frames) {
  // ModelChunk says itself how many frames it has.
  constexpr bool kMayCarry = std::is_same_v<Proto, v1::Candidates> ||
                             std::is_same_v<Proto, v1::Selected> ||
                             std::is_same_v<Proto, v1::ModelChunk>;
  if (!kMayCarry && frames.size() != 2) {
    return wire::Refuse("payload frames", std::to_string(frames.size() - 2), "0");
  }
  SIFTD_RETURN_IF_ERROR(CheckFields(frames[1]));
  Scratch scratch;
  auto& proto = *google::protobuf::Arena::CreateMessage<Proto>(&scratch.arena);
  if (!proto.ParseFromArray(frames[1].data(), static_cast<int>(frames[1].size()))) {
    return wire::Refuse("header",
                        "no " + Proto::descriptor()->name() + " message (" +
                            std::to_string(frames[1].size()) + " bytes)",
                        "valid protobuf");
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
  std::optional<Result<Message>> result;
  (void)((type == static_cast<int>(Wire<T>::kType) &&
          (result.emplace(DecodeAs<typename Wire<T>::Proto>(frames)), true)) ||
         ...);
  if (result) return std::move(*result);
  return wire::Refuse("type", std::to_string(type), "1 to 23 (enum MessageType)");
}

}  // namespace

Result<std::uint8_t> PeekType(const Frames& frames) {
  if (frames.size() < 2 || frames.size() > limits::kMaxFrames) {
    return wire::Refuse("frames", std::to_string(frames.size()),
                        "2 to " + std::to_string(limits::kMaxFrames));
  }
  const Frame& preamble = frames[0];
  if (preamble.size() != limits::kPreambleBytes) {
    return wire::Refuse("preamble's bytes", std::to_string(preamble.size()), "8");
  }
  if (std::memcmp(preamble.data(), limits::kMagic, sizeof(limits::kMagic)) != 0) {
    return wire::Refuse("magic", Hex(preamble.view().substr(0, sizeof(limits::kMagic))),
                        Hex({limits::kMagic, sizeof(limits::kMagic)}) + " (SFTD)");
  }
  if (preamble.data()[4] != limits::kMajor) {
    return wire::Refuse("major", std::to_string(preamble.data()[4]),
                        std::to_string(limits::kMajor));
  }
  if (preamble.data()[6] != 0 || preamble.data()[7] != 0) {
    return wire::Refuse("flags", std::to_string(preamble.data()[6] | preamble.data()[7] << 8), "0");
  }
  if (frames[1].size() > limits::kMaxHeaderBytes) {
    return wire::Refuse("header's bytes", std::to_string(frames[1].size()),
                        "at most " + std::to_string(limits::kMaxHeaderBytes));
  }
  return preamble.data()[5];
}

Result<Message> Decode(const Frames& frames) {
  SIFTD_ASSIGN_OR_RETURN(const std::uint8_t type, PeekType(frames));
  return Dispatch(type, frames, static_cast<Message*>(nullptr));
}

void Encode(const Message& message, Frames* frames) {
  std::visit(
      [frames](const auto& m) {
        using W = Wire<std::decay_t<decltype(m)>>;
        static constexpr std::array<std::uint8_t, limits::kPreambleBytes> kPreamble{
            limits::kMagic[0], limits::kMagic[1], limits::kMagic[2],
            limits::kMagic[3], limits::kMajor,    static_cast<std::uint8_t>(W::kType)};
        frames->clear();
        frames->emplace_back(nullptr, kPreamble.data(), kPreamble.size());
        frames->emplace_back();
        Scratch scratch;
        auto& proto = *google::protobuf::Arena::CreateMessage<typename W::Proto>(&scratch.arena);
        wire::To(m, &proto, frames);
        (*frames)[1] = Serialize(proto);
      },
      message);
}

Frames Encode(const Message& message) {
  Frames frames;
  Encode(message, &frames);
  return frames;
}

void QuietProtobuf() { google::protobuf::SetLogHandler(nullptr); }

std::string_view MessageName(const Message& message) {
  return std::visit(
      [](const auto& m) -> std::string_view {
        return Wire<std::decay_t<decltype(m)>>::Proto::descriptor()->name();
      },
      message);
}

}  // namespace siftd
