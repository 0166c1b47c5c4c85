// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/convert.h"

#include "pipeline/wire/limits.h"

namespace siftd::wire {

void To(const SessionId& from, v1::Session* to) {
  to->set_incarnation(from.incarnation);
  to->set_counter(from.counter);
}

void To(const BatchKey& from, v1::Key* to) {
  to->set_loader(from.loader);
  to->set_pass(from.pass);
  to->set_seq(from.seq);
}

Status Refuse(const std::string& field, const std::string& value, const std::string& allowed) {
  return InvalidArgument(field + " is " + value + "; allowed: " + allowed);
}

Status CheckAtMost(const std::string& field, std::size_t value, std::size_t most) {
  if (value <= most) return OkStatus();
  return Refuse(field, std::to_string(value), "at most " + std::to_string(most));
}

Status CheckText(const std::string& field, const std::string& text, std::size_t most) {
  if (text.size() <= most) return OkStatus();
  return Refuse(field, std::to_string(text.size()) + " bytes long", "at most " + std::to_string(most));
}

Result<DType> FromDType(const std::string& field, int dtype) {
  if (dtype >= 1 && dtype <= 10) return static_cast<DType>(dtype);
  return Refuse(field, std::to_string(dtype), "1 to 10 (enum DType)");
}

Result<TensorSpec> From(const std::string& field, const v1::TensorSpec& from) {
  TensorSpec spec;
  SIFTD_RETURN_IF_ERROR(CheckText(field + ".name", from.name(), limits::kMaxNameBytes));
  SIFTD_RETURN_IF_ERROR(
      CheckAtMost(field + ".shape's length", static_cast<std::size_t>(from.shape_size()), limits::kMaxRank));
  SIFTD_ASSIGN_OR_RETURN(spec.dtype, FromDType(field + ".dtype", from.dtype()));
  spec.name = from.name();
  spec.shape = ToVector<std::int64_t>(from.shape());
  for (const std::int64_t size : spec.shape) {
    if (size < -1) return Refuse(field + ".shape", std::to_string(size), ">= -1");
  }
  return spec;
}

void To(const TensorSpec& from, v1::TensorSpec* to) {
  to->set_name(from.name);
  to->set_dtype(static_cast<v1::DType>(from.dtype));
  FromVector(from.shape, to->mutable_shape());
}

Result<DecidedSet> From(const v1::Decided& from) {
  const auto n = static_cast<std::size_t>(from.loader_size());
  SIFTD_RETURN_IF_ERROR(CheckAtMost("decided.loader's length", n, limits::kMaxIntervals));
  SIFTD_RETURN_IF_ERROR(CheckAtMost("decided.next_pass's length",
                                    static_cast<std::size_t>(from.next_pass_size()), limits::kMaxLoaders));
  if (from.pass_size() != from.loader_size() || from.begin_size() != from.loader_size() ||
      from.end_size() != from.loader_size()) {
    return InvalidArgument("decided: loader, pass, begin and end have " + std::to_string(n) + ", " +
                           std::to_string(from.pass_size()) + ", " + std::to_string(from.begin_size()) +
                           " and " + std::to_string(from.end_size()) + " entries; allowed: equal numbers");
  }
  DecidedSet set;
  set.next_pass = ToVector<std::uint64_t>(from.next_pass());
  set.intervals.reserve(n);
  for (int i = 0; i < from.loader_size(); ++i) {
    const DecidedInterval now{from.loader(i), from.pass(i), from.begin(i), from.end(i)};
    if (now.begin >= now.end) {
      return Refuse("decided.end[" + std::to_string(i) + "]", std::to_string(now.end),
                    "above begin = " + std::to_string(now.begin));
    }
    set.intervals.push_back(now);
  }
  return set;
}

void To(const DecidedSet& from, v1::Decided* to) {
  for (const DecidedInterval& i : from.intervals) {
    to->add_loader(i.loader);
    to->add_pass(i.pass);
    to->add_begin(i.begin);
    to->add_end(i.end);
  }
  FromVector(from.next_pass, to->mutable_next_pass());
}

Result<std::vector<Tensor>> FromTensors(const google::protobuf::RepeatedPtrField<v1::TensorDesc>& descs,
                                        const Frames& frames, std::size_t rows) {
  SIFTD_RETURN_IF_ERROR(
      CheckAtMost("tensor's length", static_cast<std::size_t>(descs.size()), limits::kMaxTensors));
  const std::size_t payload = frames.size() - 2;
  std::vector<Tensor> tensors;
  tensors.reserve(static_cast<std::size_t>(descs.size()));
  for (int i = 0; i < descs.size(); ++i) {
    const v1::TensorDesc& desc = descs[i];
    const std::string field = "tensor[" + std::to_string(i) + "]";
    Tensor tensor;
    SIFTD_RETURN_IF_ERROR(CheckText(field + ".name", desc.name(), limits::kMaxNameBytes));
    SIFTD_RETURN_IF_ERROR(
        CheckAtMost(field + ".shape's length", static_cast<std::size_t>(desc.shape_size()), limits::kMaxRank));
    SIFTD_ASSIGN_OR_RETURN(tensor.dtype, FromDType(field + ".dtype", desc.dtype()));
    if (desc.frame() >= payload) {
      return Refuse(field + ".frame", std::to_string(desc.frame()),
                    "below the number of payload frames, " + std::to_string(payload));
    }
    tensor.name = desc.name();
    tensor.shape = ToVector<std::int64_t>(desc.shape());
    tensor.bytes = frames[2 + desc.frame()];
    SIFTD_RETURN_IF_ERROR(Validate(tensor));
    if (tensor.shape.empty() || static_cast<std::size_t>(tensor.shape[0]) != rows) {
      return Refuse(field + ".shape[0]",
                    tensor.shape.empty() ? "missing" : std::to_string(tensor.shape[0]),
                    "the number of rows, " + std::to_string(rows));
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

void ToTensors(const std::vector<Tensor>& tensors,
               google::protobuf::RepeatedPtrField<v1::TensorDesc>* descs, Frames* frames) {
  for (const Tensor& tensor : tensors) {
    v1::TensorDesc* desc = descs->Add();
    desc->set_name(tensor.name);
    desc->set_dtype(static_cast<v1::DType>(tensor.dtype));
    FromVector(tensor.shape, desc->mutable_shape());
    desc->set_frame(static_cast<std::uint32_t>(frames->size() - 2));
    frames->push_back(tensor.bytes);
  }
}

}  // namespace siftd::wire
