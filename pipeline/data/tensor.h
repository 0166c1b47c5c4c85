// SPDX-License-Identifier: Apache-2.0
// Tensor: a named, typed, shaped view of a Frame. Value; any thread. Never interprets its elements,
// and its bytes may start at any address (ZeroMQ decodes small frames in place): copy before use as
// numbers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pipeline/base/frame.h"
#include "pipeline/base/status.h"
#include "pipeline/data/dtype.h"

namespace siftd {

struct Tensor {
  std::string name;
  DType dtype = DType::kUnspecified;
  std::vector<std::int64_t> shape;  // C-contiguous
  Frame bytes;

  // shape[0]; 0 for a scalar.
  std::int64_t rows() const { return shape.empty() ? 0 : shape[0]; }
  // Bytes of one row. REQUIRES: Validate() is ok.
  std::size_t row_bytes() const;
};

// One argument of a scorer, or of a loader's batch. shape[0] = -1 is the batch; other -1 are free.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kUnspecified;
  std::vector<std::int64_t> shape;

  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

// Product of the sizes times the element size, or an error for negative sizes, an unknown dtype or
// overflow.
Result<std::size_t> CheckedBytes(DType dtype, const std::vector<std::int64_t>& shape);

// dtype known, sizes >= 0, and bytes.size() equal to what they say.
Status Validate(const Tensor& tensor);

// `tensor` can stand where `spec` is asked for: dtype, rank and all fixed sizes. The names are not
// compared.
Status Matches(const Tensor& tensor, const TensorSpec& spec);

// "x float32 [-1, 3, 32, 32]"
std::string ToString(const TensorSpec& spec);

// The rows `kept` of `tensor`, in that order, in memory of its own: one copy. REQUIRES: Validate()
// ok, indices in range.
Tensor GatherRows(const Tensor& tensor, const std::vector<std::uint32_t>& kept);

}  // namespace siftd
