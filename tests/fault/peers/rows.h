// SPDX-License-Identifier: Apache-2.0
// The rows of the fault suite: x float32 [n, floats], each number of a row is the row's sample id,
// so that whoever gets a row can tell whether its bytes are its own. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "pipeline/data/tensor.h"

namespace siftd::fault {

inline std::vector<Tensor> MakeRows(const std::vector<std::uint64_t>& ids, std::uint64_t floats) {
  std::vector<float> x;
  x.reserve(ids.size() * floats);
  for (const std::uint64_t id : ids) x.insert(x.end(), floats, static_cast<float>(id));
  return {{"x",
           DType::kFloat32,
           {static_cast<std::int64_t>(ids.size()), static_cast<std::int64_t>(floats)},
           Frame::Copy(x.data(), x.size() * sizeof(float))}};
}

// First and last number of each row.
inline bool RowsAreTheirOwn(const std::vector<Tensor>& tensors,
                            const std::vector<std::uint64_t>& ids) {
  if (tensors.size() != 1 || tensors[0].rows() != static_cast<std::int64_t>(ids.size()))
    return false;
  const std::size_t bytes = tensors[0].row_bytes();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    for (const std::size_t at : {i * bytes, (i + 1) * bytes - sizeof(float)}) {
      float value = 0;
      std::memcpy(&value, tensors[0].bytes.data() + at, sizeof(value));
      if (value != static_cast<float>(ids[i])) return false;
    }
  }
  return true;
}

}  // namespace siftd::fault
