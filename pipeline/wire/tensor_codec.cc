// SPDX-License-Identifier: Apache-2.0
// Specs of tensors, and tensors over the payload frames that hold them.
#include <algorithm>
#include <bitset>

#include "pipeline/wire/convert.h"
#include "pipeline/wire/limits.h"

namespace siftd::wire {
namespace {

// What TensorSpec and TensorDesc have in common.
template <typename Proto>
Result<TensorSpec> FromSpec(const Field& field, const Proto& from) {
  TensorSpec spec;
  SIFTD_RETURN_IF_ERROR(CheckText({field, ".name"}, from.name(), limits::kMaxNameBytes));
  SIFTD_RETURN_IF_ERROR(CheckAtMost({field, ".shape's length"},
                                    static_cast<std::size_t>(from.shape_size()), limits::kMaxRank));
  SIFTD_ASSIGN_OR_RETURN(spec.dtype, FromDType({field, ".dtype"}, from.dtype()));
  spec.name = from.name();
  spec.shape = ToVector<std::int64_t>(from.shape());
  return spec;
}

}  // namespace

Result<DType> FromDType(const Field& field, int dtype) {
  if (dtype >= 1 && dtype <= 10) return static_cast<DType>(dtype);
  return Refuse(field.Name(), std::to_string(dtype), "1 to 10 (enum DType)");
}

Result<TensorSpec> From(const Field& field, const v1::TensorSpec& from) {
  SIFTD_ASSIGN_OR_RETURN(TensorSpec spec, FromSpec(field, from));
  for (const std::int64_t size : spec.shape) {
    if (size < -1) return Refuse(field.Name() + ".shape", std::to_string(size), ">= -1");
  }
  return spec;
}

Result<TensorSpec> From(const Field& field, const v1::TensorDesc& from) {
  return FromSpec(field, from);
}

void To(const TensorSpec& from, v1::TensorSpec* to) {
  to->set_name(from.name);
  to->set_dtype(static_cast<v1::DType>(from.dtype));
  FromVector(from.shape, to->mutable_shape());
}

Result<std::size_t> SpecBytes(const Field& field, const TensorSpec& spec) {
  auto bytes = CheckedBytes(spec.dtype, spec.shape);
  if (bytes.ok()) return bytes;
  std::string shape;
  for (const std::int64_t size : spec.shape)
    shape += (shape.empty() ? "" : ", ") + std::to_string(size);
  return Refuse(field.Name() + ".shape", "[" + shape + "]",
                "sizes of 0 or more, below 2^64 bytes in all");
}

Result<std::vector<Tensor>> FromTensors(
    const google::protobuf::RepeatedPtrField<v1::TensorDesc>& descs, const Frames& frames,
    std::size_t rows) {
  const auto count = static_cast<std::size_t>(descs.size());
  const std::size_t payload = frames.size() - 2;
  SIFTD_RETURN_IF_ERROR(CheckAtMost("tensor's length", count, limits::kMaxTensors));
  if (payload != count) {
    return Refuse("payload frames", std::to_string(payload),
                  "one for each tensor, " + std::to_string(count));
  }
  std::bitset<limits::kMaxTensors> used;
  std::vector<Tensor> tensors(count);
  for (std::size_t i = 0; i < count; ++i) {
    const int at = static_cast<int>(i);
    const v1::TensorDesc& desc = descs[at];
    const Field field("tensor", at);
    SIFTD_ASSIGN_OR_RETURN(TensorSpec spec, From(field, desc));
    if (desc.frame() >= payload || used[desc.frame()]) {
      return Refuse(field.Name() + ".frame", std::to_string(desc.frame()),
                    "each of 0 to " + std::to_string(payload - 1) + " once");
    }
    used.set(desc.frame());
    SIFTD_ASSIGN_OR_RETURN(const std::size_t bytes, SpecBytes(field, spec));
    const Frame& frame = frames[2 + desc.frame()];
    if (bytes != frame.size()) {
      return Refuse(field.Name() + "'s frame", std::to_string(frame.size()) + " bytes long",
                    "what its shape says, " + std::to_string(bytes));
    }
    if (spec.shape.empty() || static_cast<std::size_t>(spec.shape[0]) != rows) {
      return Refuse(field.Name() + ".shape[0]",
                    spec.shape.empty() ? "missing" : std::to_string(spec.shape[0]),
                    "the number of rows, " + std::to_string(rows));
    }
    const auto end = tensors.begin() + at;
    if (std::any_of(tensors.begin(), end, [&](const Tensor& t) { return t.name == spec.name; })) {
      return Refuse(field.Name() + ".name", "'" + spec.name + "' again", "each name once");
    }
    tensors[i] = {std::move(spec.name), spec.dtype, std::move(spec.shape), frame};
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
