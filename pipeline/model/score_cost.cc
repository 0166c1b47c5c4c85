// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/score_cost.h"

namespace siftd {

std::string ToString(const ScoreCost& cost) {
  std::string text;
  if (cost.bf16) text += ", bf16";
  if (cost.optimized) text += ", optimized";
  if (cost.resolution > 0) {
    const std::string n = std::to_string(cost.resolution);
    text += ", images at " + n + " x " + n;
  }
  return text;
}

}  // namespace siftd
