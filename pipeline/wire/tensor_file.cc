// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/tensor_file.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "pipeline/wire/convert.h"
#include "pipeline/wire/limits.h"

namespace siftd {
namespace {

namespace pb = google::protobuf;

constexpr char kMetadata[] = "__metadata__";
constexpr std::uint64_t kMaxHeader = 100u << 20;  // as the format's own readers have it

constexpr std::array<std::pair<DType, std::string_view>, 10> kNames = {{
    {DType::kBool, "BOOL"},
    {DType::kUInt8, "U8"},
    {DType::kInt8, "I8"},
    {DType::kInt16, "I16"},
    {DType::kInt32, "I32"},
    {DType::kInt64, "I64"},
    {DType::kFloat16, "F16"},
    {DType::kBFloat16, "BF16"},
    {DType::kFloat32, "F32"},
    {DType::kFloat64, "F64"},
}};

pb::Value Number(std::uint64_t n) {
  pb::Value value;
  value.set_number_value(static_cast<double>(n));
  return value;
}

// What a well-formed entry says of itself.
Result<std::vector<std::uint64_t>> WholeNumbers(const std::string& field, const pb::Struct& entry,
                                                const char* name) {
  const auto it = entry.fields().find(name);
  if (it == entry.fields().end() || !it->second.has_list_value())
    return wire::Refuse(field + "." + name, "missing", "a list of whole numbers");
  std::vector<std::uint64_t> numbers;
  for (const pb::Value& v : it->second.list_value().values()) {
    const double n = v.has_number_value() ? v.number_value() : -1;
    if (!(n >= 0 && n <= 9007199254740992.0) || n != std::floor(n))
      return wire::Refuse(field + "." + name, v.ShortDebugString(), "whole numbers up to 2^53");
    numbers.push_back(static_cast<std::uint64_t>(n));
  }
  return numbers;
}

Result<DType> TypeOf(const std::string& field, const pb::Struct& entry) {
  const auto it = entry.fields().find("dtype");
  const std::string text = it == entry.fields().end() ? "missing" : it->second.string_value();
  for (const auto& [dtype, name] : kNames) {
    if (name == text) return dtype;
  }
  return wire::Refuse(field + ".dtype", text, "BOOL, U8, I8 to I64, BF16, F16 to F64");
}

Result<Tensor> ReadEntry(const std::string& name, const pb::Struct& entry, const Frame& data) {
  const std::string field = "tensor '" + wire::ClipText(name) + "'";
  Tensor tensor;
  tensor.name = name;
  SIFTD_ASSIGN_OR_RETURN(tensor.dtype, TypeOf(field, entry));
  SIFTD_ASSIGN_OR_RETURN(const auto shape, WholeNumbers(field, entry, "shape"));
  SIFTD_ASSIGN_OR_RETURN(const auto place, WholeNumbers(field, entry, "data_offsets"));
  if (shape.size() > limits::kMaxRank)
    return wire::Refuse(field + ".shape's length", std::to_string(shape.size()),
                        "at most " + std::to_string(limits::kMaxRank));
  if (place.size() != 2 || place[0] > place[1] || place[1] > data.size())
    return wire::Refuse(field + ".data_offsets", "outside of the file",
                        "[begin, end] within its " + std::to_string(data.size()) + " data bytes");
  tensor.shape.assign(shape.begin(), shape.end());
  tensor.bytes = Frame(data.owner(), data.data() + place[0], place[1] - place[0]);
  SIFTD_RETURN_IF_ERROR(Validate(tensor));
  return tensor;
}

}  // namespace

std::string EncodeTensorFile(const TensorFile& file) {
  pb::Struct header;
  auto& fields = *header.mutable_fields();
  for (const auto& [name, text] : file.text) {
    (*fields[kMetadata].mutable_struct_value()->mutable_fields())[name].set_string_value(text);
  }
  std::uint64_t at = 0;
  for (const Tensor& tensor : file.tensors) {
    auto& entry = *fields[tensor.name].mutable_struct_value()->mutable_fields();
    for (const auto& [dtype, name] : kNames) {
      if (dtype == tensor.dtype) entry["dtype"].set_string_value(std::string(name));
    }
    auto& shape = *entry["shape"].mutable_list_value();
    for (const std::int64_t size : tensor.shape)
      *shape.add_values() = Number(static_cast<std::uint64_t>(size));
    auto& place = *entry["data_offsets"].mutable_list_value();
    *place.add_values() = Number(at);
    at += tensor.bytes.size();
    *place.add_values() = Number(at);
  }
  std::string json;
  if (!pb::util::MessageToJsonString(header, &json).ok()) json = "{}";
  json.resize((json.size() + 7) / 8 * 8, ' ');  // the tensors begin aligned
  std::string out;
  out.reserve(8 + json.size() + at);
  for (int byte = 0; byte < 8; ++byte)
    out.push_back(static_cast<char>(json.size() >> (8 * byte) & 0xFF));
  out += json;
  for (const Tensor& tensor : file.tensors) out += tensor.bytes.view();
  return out;
}

Result<TensorFile> DecodeTensorFile(const Frame& bytes) {
  std::uint64_t length = 0;
  if (bytes.size() < 8)
    return wire::Refuse("file", std::to_string(bytes.size()) + " bytes", "8 or more");
  for (int byte = 7; byte >= 0; --byte) length = length << 8 | bytes.data()[byte];
  if (length > kMaxHeader || length > bytes.size() - 8)
    return wire::Refuse("header's length", std::to_string(length),
                        "what the file holds, at most 100 MiB");
  const std::string json(bytes.view().substr(8, length));
  pb::Struct header;
  if (!pb::util::JsonStringToMessage(json, &header).ok())
    return wire::Refuse("header", "no JSON object", "that of a safetensors file");
  const std::size_t begin = 8 + length;
  const Frame data(bytes.owner(), bytes.data() + begin, bytes.size() - begin);
  TensorFile file;
  const std::map<std::string, pb::Value> ordered(header.fields().begin(), header.fields().end());
  for (const auto& [name, value] : ordered) {
    if (!value.has_struct_value())
      return wire::Refuse("header entry '" + wire::ClipText(name) + "'", "no object", "an object");
    if (name == kMetadata) {
      for (const auto& [key, text] : value.struct_value().fields())
        file.text[key] = text.string_value();
      continue;
    }
    SIFTD_ASSIGN_OR_RETURN(Tensor tensor, ReadEntry(name, value.struct_value(), data));
    file.tensors.push_back(std::move(tensor));
  }
  return file;
}

}  // namespace siftd
