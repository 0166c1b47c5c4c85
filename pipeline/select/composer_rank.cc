// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/composer_rank.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "pipeline/select/option_range.h"

namespace siftd {

Status Validate(const ComposerRankOptions& options) {
  return CheckFraction("composer_rank.keep", options.keep);
}

void ComposerRankPolicy::Select(const PolicyInput& in, PolicyOutput* out) {
  const std::size_t n = in.score.size();
  out->keep.assign(n, 0);
  out->probability.clear();
  out->percentile.resize(n);
  order_.resize(n);
  key_.resize(n);
  std::iota(order_.begin(), order_.end(), 0u);
  std::sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) {
    return in.score[a] != in.score[b] ? in.score[a] < in.score[b] : a < b;
  });
  const double power = 1.0 / keep_ - 1.0;
  for (std::size_t rank = 0; rank < n; ++rank) {
    const std::uint32_t row = order_[rank];
    const double percentile = (static_cast<double>(rank) + 0.5) / static_cast<double>(n);
    out->percentile[row] = static_cast<float>(percentile);
    // In logarithms: a small keep makes the weight itself underflow.
    key_[row] = std::log(-std::log1p(-in.coin[row])) - power * std::log(percentile);
  }
  const auto k = static_cast<std::ptrdiff_t>(keep_ * static_cast<double>(n));
  std::nth_element(order_.begin(), order_.begin() + k, order_.end(),
                   [&](std::uint32_t a, std::uint32_t b) {
                     return key_[a] != key_[b] ? key_[a] < key_[b] : a < b;
                   });
  for (std::ptrdiff_t i = 0; i < k; ++i) out->keep[order_[static_cast<std::size_t>(i)]] = 1;
}

}  // namespace siftd
