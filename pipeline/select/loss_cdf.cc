// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/loss_cdf.h"

#include <algorithm>
#include <cmath>

#include "pipeline/select/option_range.h"

namespace siftd {

Status Validate(const LossCdfOptions& options) {
  if (!(options.beta >= 0) || std::isinf(options.beta)) {
    return OutOfRange("loss_cdf.beta", NumberText(options.beta), "> 0 (0 keeps every row)");
  }
  if (options.loss_history_length < 2 || options.loss_history_length > 10'000'000) {
    return OutOfRange("loss_cdf.loss_history_length", std::to_string(options.loss_history_length),
                      "[2, 10000000]");
  }
  SIFTD_RETURN_IF_ERROR(CheckUnit("loss_cdf.floor", options.floor));
  return CheckFraction("loss_cdf.clip", options.clip);
}

void LossCdfPolicy::Observe(std::span<const float> score) {
  for (const float s : score) history_.Add(s);
}

void LossCdfPolicy::Select(const PolicyInput& in, PolicyOutput* out) {
  Observe(in.score);
  out->probability.resize(in.score.size());
  out->percentile.resize(in.score.size());
  for (std::size_t i = 0; i < in.score.size(); ++i) {
    const double percentile = history_.Percentile(in.score[i]);
    const double p = options_.beta == 1.0 ? percentile : std::pow(percentile, options_.beta);
    out->percentile[i] = static_cast<float>(percentile);
    out->probability[i] =
        percentile > options_.clip ? 0.0f : static_cast<float>(std::clamp(p, options_.floor, 1.0));
  }
  DrawBernoulli(in.coin, out);
}

}  // namespace siftd
