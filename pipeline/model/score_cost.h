// SPDX-License-Identifier: Apache-2.0
// ScoreCost: what makes a scoring forward cheaper, mostly at some loss of agreement with the full
// one.
// Value.
#pragma once

#include <string>

namespace siftd {

struct ScoreCost {
  bool bf16 = false;  // weights and floating-point inputs as bfloat16; scores are float32 again
  bool optimized = false;  // folded and fused for this CPU at each version; the last bits differ
  int resolution = 0;      // larger image inputs [n, c, h, w] become [n, c, N, N]; 0 = as they come

  bool full() const { return !bf16 && !optimized && resolution == 0; }
};

// ", bf16, images at 16 x 16", for status and errors; "" for a full forward.
std::string ToString(const ScoreCost& cost);

}  // namespace siftd
