// SPDX-License-Identifier: Apache-2.0
// data/tensor.h <-> ATen. Internal to pipeline/model.
#pragma once

#include <ATen/core/Tensor.h>

#include "pipeline/data/tensor.h"

namespace siftd {

// REQUIRES: a known dtype
at::ScalarType ToScalarType(DType dtype);
// kUnspecified for types that the wire does not know.
DType FromScalarType(at::ScalarType type);
// A copy in aligned memory: bytes of a Frame may start anywhere.
at::Tensor CopyToAten(const Tensor& tensor);
// The frame's own bytes where they are aligned, else a copy. Read only; valid while `tensor` is.
at::Tensor ViewAten(const Tensor& tensor);

}  // namespace siftd
