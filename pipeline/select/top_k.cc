// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/top_k.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "pipeline/select/option_range.h"

namespace siftd {

Status Validate(const TopKOptions& options) { return CheckFraction("top_k.keep", options.keep); }

void TopKPolicy::Select(const PolicyInput& in, PolicyOutput* out) {
  const std::size_t n = in.score.size();
  const auto k = std::min(n, static_cast<std::size_t>(std::ceil(keep_ * static_cast<double>(n))));
  out->keep.assign(n, 0);
  out->probability.assign(n, 0.0f);
  out->percentile.clear();
  order_.resize(n);
  std::iota(order_.begin(), order_.end(), 0u);
  std::nth_element(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(k), order_.end(),
                   [&](std::uint32_t a, std::uint32_t b) {
                     return std::tuple(-in.score[a], in.coin[a], a) <
                            std::tuple(-in.score[b], in.coin[b], b);
                   });
  for (std::size_t i = 0; i < k; ++i) {
    out->keep[order_[i]] = 1;
    out->probability[order_[i]] = 1.0f;
  }
}

}  // namespace siftd
