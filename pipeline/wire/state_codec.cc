// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/state_codec.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <utility>

#include "pipeline/wire/message_codec.h"
#include "siftd/v1/state.pb.h"

namespace siftd {
namespace {

// Before the names of their tensors.
constexpr char kHalf[] = "half.";
std::string OfCarried(int i) { return "carried." + std::to_string(i) + "."; }

void PutRows(const Selected& rows, const std::string& prefix, v1::Selected* proto,
             TensorFile* file) {
  Frames frames(2);
  wire::To(rows, proto, &frames);
  proto->clear_session();
  for (Tensor tensor : rows.tensors) {
    tensor.name.insert(0, prefix);
    file->tensors.push_back(std::move(tensor));
  }
}

// As if they came over the wire: the same checks.
Result<Selected> TakeRows(const TensorFile& file, const std::string& prefix, v1::Selected proto) {
  Frames frames(2);
  for (const v1::TensorDesc& desc : proto.tensor()) {
    const auto it = std::find_if(file.tensors.begin(), file.tensors.end(),
                                 [&](const Tensor& t) { return t.name == prefix + desc.name(); });
    if (it == file.tensors.end())
      return wire::Refuse(prefix + "tensor '" + wire::ClipText(desc.name()) + "'",
                          "not in the file", "one of its tensors");
    frames.push_back(it->bytes);
  }
  for (int i = 0; i < proto.tensor_size(); ++i)
    proto.mutable_tensor(i)->set_frame(static_cast<std::uint32_t>(i));
  return wire::From(proto, frames);
}

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
  if (state.half) PutRows(*state.half, kHalf, proto.mutable_half(), &file);
  for (const Selected& rows : state.carried) {
    const std::string prefix = OfCarried(proto.carried_size());
    PutRows(rows, prefix, proto.add_carried(), &file);
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
  if (proto.has_half()) {
    SIFTD_ASSIGN_OR_RETURN(state.half, TakeRows(file, kHalf, proto.half()));
  }
  for (int i = 0; i < proto.carried_size(); ++i) {
    SIFTD_ASSIGN_OR_RETURN(Selected rows, TakeRows(file, OfCarried(i), proto.carried(i)));
    state.carried.push_back(std::move(rows));
  }
  return state;
}

}  // namespace siftd
