// SPDX-License-Identifier: Apache-2.0
// Element types of tensors on the wire. The numbers are those of proto/siftd/v1/artifact.proto (a
// test compares them).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace siftd {

enum class DType : std::uint8_t {
  kUnspecified = 0,
  kBool = 1,
  kUInt8 = 2,
  kInt8 = 3,
  kInt16 = 4,
  kInt32 = 5,
  kInt64 = 6,
  kFloat16 = 7,
  kBFloat16 = 8,
  kFloat32 = 9,
  kFloat64 = 10,
};

// Bytes of one element; 0 for kUnspecified and for values outside the enum.
constexpr std::size_t ItemSize(DType t) {
  switch (t) {
    case DType::kBool:
    case DType::kUInt8:
    case DType::kInt8:
      return 1;
    case DType::kInt16:
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kInt32:
    case DType::kFloat32:
      return 4;
    case DType::kInt64:
    case DType::kFloat64:
      return 8;
    default:
      return 0;
  }
}

// "float32"
constexpr std::string_view DTypeName(DType t) {
  switch (t) {
    case DType::kBool:
      return "bool";
    case DType::kUInt8:
      return "uint8";
    case DType::kInt8:
      return "int8";
    case DType::kInt16:
      return "int16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    default:
      return "unspecified";
  }
}

}  // namespace siftd
