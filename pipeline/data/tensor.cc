// SPDX-License-Identifier: Apache-2.0
#include "pipeline/data/tensor.h"

#include <cstring>

namespace siftd {
namespace {

std::string ShapeText(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

}  // namespace

std::size_t Tensor::row_bytes() const {
  std::size_t n = ItemSize(dtype);
  for (std::size_t i = 1; i < shape.size(); ++i) n *= static_cast<std::size_t>(shape[i]);
  return n;
}

Result<std::size_t> CheckedBytes(DType dtype, const std::vector<std::int64_t>& shape) {
  std::size_t bytes = ItemSize(dtype);
  if (bytes == 0) {
    return InvalidArgument("dtype is " + std::to_string(static_cast<int>(dtype)) +
                           "; allowed: 1 to 10");
  }
  bool zero = false;
  for (std::int64_t size : shape) {
    if (size < 0) return InvalidArgument("shape " + ShapeText(shape) + " has a negative size");
    if (size == 0) zero = true;
    if (size > 0 && __builtin_mul_overflow(bytes, static_cast<std::size_t>(size), &bytes)) {
      return InvalidArgument("shape " + ShapeText(shape) + " overflows 64 bits of bytes");
    }
  }
  return zero ? std::size_t{0} : bytes;
}

Status Validate(const Tensor& tensor) {
  SIFTD_ASSIGN_OR_RETURN(const std::size_t bytes, CheckedBytes(tensor.dtype, tensor.shape));
  if (bytes != tensor.bytes.size()) {
    return InvalidArgument("tensor '" + tensor.name + "' " + std::string(DTypeName(tensor.dtype)) +
                           " " + ShapeText(tensor.shape) + " needs " + std::to_string(bytes) +
                           " bytes; its frame has " + std::to_string(tensor.bytes.size()));
  }
  return OkStatus();
}

Status Matches(const Tensor& tensor, const TensorSpec& spec) {
  bool fits = tensor.dtype == spec.dtype && tensor.shape.size() == spec.shape.size();
  for (std::size_t i = 0; fits && i < spec.shape.size(); ++i) {
    fits = spec.shape[i] < 0 || spec.shape[i] == tensor.shape[i];
  }
  if (fits) return OkStatus();
  return InvalidArgument("tensor '" + tensor.name + "' is " + std::string(DTypeName(tensor.dtype)) +
                         " " + ShapeText(tensor.shape) + "; the model takes " + ToString(spec));
}

std::string ToString(const TensorSpec& spec) {
  return spec.name + " " + std::string(DTypeName(spec.dtype)) + " " + ShapeText(spec.shape);
}

Tensor GatherRows(const Tensor& tensor, const std::vector<std::uint32_t>& kept) {
  Tensor out{tensor.name, tensor.dtype, tensor.shape, {}};
  out.shape[0] = static_cast<std::int64_t>(kept.size());
  const std::size_t row = tensor.row_bytes();
  // Uninitialised: every byte is written below.
  std::shared_ptr<std::uint8_t[]> bytes(new std::uint8_t[row * kept.size()]);
  std::uint8_t* to = bytes.get();
  for (std::size_t i = 0; i < kept.size();) {
    std::size_t run = 1;  // neighbouring rows go in one copy
    while (i + run < kept.size() && kept[i + run] == kept[i] + run) ++run;
    if (row > 0) std::memcpy(to, tensor.bytes.data() + kept[i] * row, run * row);
    to += run * row;
    i += run;
  }
  const std::uint8_t* data = bytes.get();
  out.bytes = Frame(std::move(bytes), data, row * kept.size());
  return out;
}

}  // namespace siftd
