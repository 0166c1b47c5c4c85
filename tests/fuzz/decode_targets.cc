// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "pipeline/delivery/train_batch.h"
#include "pipeline/wire/codec.h"
#include "pipeline/wire/limits.h"
#include "pipeline/wire/status_json.h"
#include "siftd/v1/wire.pb.h"
#include "tests/fuzz/targets.h"

namespace siftd::fuzz {
namespace {

Frame Preamble(std::uint8_t type) {
  return Frame::Adopt(std::vector<std::uint8_t>{'S', 'F', 'T', 'D', 1, type, 0, 0});
}

// What is taken can be sent on, and then means the same.
void RoundTrip(const Frames& frames) {
  const auto message = Decode(frames);
  if (!message.ok()) {
    Demand(!message.status().message().empty(), "an error says something");
    return;
  }
  const Frames sent = Encode(*message);
  const auto again = Decode(sent);
  Demand(again.ok(), "what was taken can be sent on");
  const Frames stable = Encode(*again);
  Demand(stable.size() == sent.size(), "encoding is stable: frames");
  const bool ordered = !std::holds_alternative<StatusReply>(*message);  // it has a map
  for (std::size_t i = 0; i < sent.size(); ++i) {
    Demand(stable[i].size() == sent[i].size(), "encoding is stable: sizes");
    Demand(!ordered || stable[i].view() == sent[i].view(), "encoding is stable: bytes");
  }
}

// Frames of zeros, as long as the descriptors say, where that is little.
template <typename Proto>
void AddPayload(const Frame& header, Frames* frames) {
  constexpr std::size_t kMost = 1 << 16;
  Proto proto;
  if (!proto.ParseFromArray(header.data(), static_cast<int>(header.size()))) return;
  if (static_cast<std::size_t>(proto.tensor_size()) > limits::kMaxTensors) return;
  std::vector<std::size_t> sizes(static_cast<std::size_t>(proto.tensor_size()));
  for (const v1::TensorDesc& desc : proto.tensor()) {
    const std::vector<std::int64_t> shape(desc.shape().begin(), desc.shape().end());
    const auto bytes = CheckedBytes(static_cast<DType>(desc.dtype()), shape);
    if (!bytes.ok() || *bytes > kMost || desc.frame() >= sizes.size()) return;
    sizes[desc.frame()] = *bytes;
  }
  for (const std::size_t size : sizes)
    frames->push_back(Frame::Adopt(std::vector<std::uint8_t>(size)));
}

}  // namespace

void FuzzFrames(Input input) {
  Bytes bytes(input);
  RoundTrip(bytes.SomeFrames());
}

void FuzzHeaders(Input input) {
  Bytes bytes(input);
  const std::uint8_t type = bytes.Byte();
  const Input rest = bytes.Rest();
  Frames frames{Preamble(type), Frame::Copy(rest.data(), rest.size())};
  if (type == v1::CANDIDATES) AddPayload<v1::Candidates>(frames[1], &frames);
  if (type == v1::SELECTED) AddPayload<v1::Selected>(frames[1], &frames);
  if (type == v1::MODEL_CHUNK) frames.push_back(Frame::Copy("chunk", 5));
  RoundTrip(frames);
}

void FuzzTensors(Input input) {
  Bytes bytes(input);
  v1::Candidates header;
  const std::size_t rows = bytes.Byte();
  for (std::size_t i = 0; i < rows; ++i) header.add_sample_id(i);
  const std::size_t tensors = bytes.Byte() % 40;
  Frames frames{Preamble(v1::CANDIDATES), {}};
  for (std::size_t i = 0; i < tensors && !bytes.empty(); ++i) {
    v1::TensorDesc* desc = header.add_tensor();
    const std::uint8_t how = bytes.Byte();
    desc->set_name(how & 1 ? "x" : "t" + std::to_string(i));
    desc->set_dtype(static_cast<v1::DType>(bytes.Byte() % 12));
    desc->set_frame(how & 2 ? bytes.Byte() : static_cast<std::uint32_t>(i));
    if (how & 4) desc->add_shape(static_cast<std::int64_t>(rows));
    const std::size_t rank = bytes.Byte() % 20;
    std::size_t size = 1;
    for (std::size_t d = 0; d < rank; ++d) {
      const auto dim = how & 8 ? bytes.Number<std::int64_t>() : bytes.Byte() % 8;
      desc->add_shape(dim);
      size *= static_cast<std::size_t>(dim);
    }
    // The size that fits, or any.
    size *= rows * ItemSize(static_cast<DType>(desc->dtype()));
    const bool fits = (how & 4) && !(how & 16) && size < 1 << 16;
    frames.push_back(fits ? Frame::Adopt(std::vector<std::uint8_t>(size, how))
                          : bytes.OneFrame(bytes.Number<std::uint16_t>()));
  }
  frames[1] = Frame::Adopt(header.SerializeAsString());
  RoundTrip(frames);
  const auto message = Decode(frames);
  if (!message.ok()) return;
  std::vector<std::uint32_t> odd;
  for (std::uint32_t row = 1; row < rows; row += 2) odd.push_back(row);
  for (const Tensor& tensor : std::get<Candidates>(*message).tensors) {
    Demand(Validate(tensor).ok(), "a decoded tensor is valid");
    const Tensor kept = GatherRows(tensor, odd);
    Demand(Validate(kept).ok(), "rows of a tensor are one");
    Demand(Validate(SliceRows(tensor, rows / 2, rows - rows / 2)).ok(), "so is a slice");
  }
}

void FuzzStatus(Input input) {
  const Frames frames{Preamble(v1::STATUS_REPLY), Frame::Copy(input.data(), input.size())};
  const auto message = Decode(frames);
  if (!message.ok()) return;
  Demand(StatusJson(std::get<StatusReply>(*message)).size() > 2, "a status can be shown");
  RoundTrip(frames);
}

}  // namespace siftd::fuzz
