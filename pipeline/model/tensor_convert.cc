// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/tensor_convert.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstring>

namespace siftd {

at::ScalarType ToScalarType(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return at::kBool;
    case DType::kUInt8:
      return at::kByte;
    case DType::kInt8:
      return at::kChar;
    case DType::kInt16:
      return at::kShort;
    case DType::kInt32:
      return at::kInt;
    case DType::kInt64:
      return at::kLong;
    case DType::kFloat16:
      return at::kHalf;
    case DType::kBFloat16:
      return at::kBFloat16;
    case DType::kFloat64:
      return at::kDouble;
    default:
      return at::kFloat;
  }
}

DType FromScalarType(at::ScalarType type) {
  for (int i = 1; i <= 10; ++i) {
    if (ToScalarType(static_cast<DType>(i)) == type) return static_cast<DType>(i);
  }
  return DType::kUnspecified;
}

at::Tensor CopyToAten(const Tensor& tensor) {
  at::Tensor out = at::empty(tensor.shape, at::TensorOptions(ToScalarType(tensor.dtype)));
  if (tensor.bytes.size() > 0)
    std::memcpy(out.data_ptr(), tensor.bytes.data(), tensor.bytes.size());
  return out;
}

at::Tensor ViewAten(const Tensor& tensor) {
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.bytes.data());
  if (tensor.bytes.empty() || address % ItemSize(tensor.dtype) != 0) return CopyToAten(tensor);
  return at::from_blob(const_cast<std::uint8_t*>(tensor.bytes.data()), tensor.shape,
                       at::TensorOptions(ToScalarType(tensor.dtype)));
}

}  // namespace siftd
