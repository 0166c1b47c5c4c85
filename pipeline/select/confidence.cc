// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/confidence.h"

#include <algorithm>

#include "pipeline/select/option_range.h"

namespace siftd {

Status Validate(const ConfidenceOptions& options) {
  SIFTD_RETURN_IF_ERROR(CheckFraction("confidence.tau", options.tau));
  return CheckUnit("confidence.floor", options.floor);
}

void ConfidencePolicy::Select(const PolicyInput& in, PolicyOutput* out) {
  out->probability.resize(in.score.size());
  out->percentile.clear();
  for (std::size_t i = 0; i < in.score.size(); ++i) {
    const double p = (1.0 - in.score[i]) / options_.tau;
    out->probability[i] = static_cast<float>(std::clamp(p, options_.floor, 1.0));
  }
  DrawBernoulli(in.coin, out);
}

}  // namespace siftd
