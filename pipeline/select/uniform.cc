// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/uniform.h"

#include "pipeline/select/option_range.h"

namespace siftd {

Status Validate(const UniformOptions& options) {
  return CheckFraction("uniform.keep", options.keep);
}

void UniformPolicy::Select(const PolicyInput& in, PolicyOutput* out) {
  out->probability.assign(in.score.size(), static_cast<float>(keep_));
  out->percentile.clear();
  DrawBernoulli(in.coin, out);
}

}  // namespace siftd
