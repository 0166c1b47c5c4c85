// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/state_codec.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <utility>

#include "pipeline/wire/message_codec.h"
#include "siftd/v1/state.pb.h"

namespace siftd {
namespace {

constexpr char kHalf[] = "half.";  // before the names of its tensors

}  // namespace

TensorFile ToTensorFile(const TrainerState& state) {
  v1::TrainerState proto;
  proto.set_schema(kStateSchema);
  proto.set_steps(state.steps);
  proto.set_rank(state.rank);
  proto.set_world(state.world);
  proto.set_loader_count(state.loader_count);
  proto.set_batch_size(state.batch_size);
  wire::To(state.decided, proto.mutable_trained());
  TensorFile file;
  if (state.half) {
    Frames frames(2);
    wire::To(*state.half, proto.mutable_half(), &frames);
    proto.mutable_half()->clear_session();
    file.tensors = state.half->tensors;
    for (Tensor& tensor : file.tensors) tensor.name.insert(0, kHalf);
  }
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  if (google::protobuf::util::MessageToJsonString(proto, &json, options).ok())
    file.text[kStateText] = std::move(json);
  return file;
}

Result<TrainerState> ToTrainerState(const TensorFile& file) {
  const auto text = file.text.find(kStateText);
  if (text == file.text.end())
    return wire::Refuse("text 'siftd_state'", "missing", "a file that siftd::SaveState wrote");
  v1::TrainerState proto;
  if (!google::protobuf::util::JsonStringToMessage(text->second, &proto).ok())
    return wire::Refuse("text 'siftd_state'", "not readable", "a TrainerState as JSON");
  if (proto.schema() != kStateSchema)
    return wire::Refuse("schema", std::to_string(proto.schema()), std::to_string(kStateSchema));
  TrainerState state;
  state.steps = proto.steps();
  state.rank = proto.rank();
  state.world = proto.world();
  state.loader_count = proto.loader_count();
  state.batch_size = proto.batch_size();
  SIFTD_ASSIGN_OR_RETURN(state.decided, wire::From(proto.trained()));
  if (!proto.has_half()) return state;
  // As if it came over the wire: the same checks.
  Frames frames(2);
  for (const v1::TensorDesc& desc : proto.half().tensor()) {
    const auto it = std::find_if(file.tensors.begin(), file.tensors.end(),
                                 [&](const Tensor& t) { return t.name == kHalf + desc.name(); });
    if (it == file.tensors.end())
      return wire::Refuse("half.tensor '" + wire::ClipText(desc.name()) + "'", "not in the file",
                          "one of its tensors");
    frames.push_back(it->bytes);
  }
  for (int i = 0; i < proto.half().tensor_size(); ++i)
    proto.mutable_half()->mutable_tensor(i)->set_frame(static_cast<std::uint32_t>(i));
  SIFTD_ASSIGN_OR_RETURN(state.half, wire::From(proto.half(), frames));
  return state;
}

}  // namespace siftd
