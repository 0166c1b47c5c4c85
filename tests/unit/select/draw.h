// SPDX-License-Identifier: Apache-2.0
// Helpers of the policy tests: coins of a range of ids, and tolerances derived from the sample
// size.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "pipeline/select/coin.h"
#include "pipeline/select/policy.h"

namespace siftd {

inline std::vector<double> Coins(std::uint64_t seed, std::uint64_t first, std::size_t n) {
  std::vector<double> coins(n);
  for (std::size_t i = 0; i < n; ++i) coins[i] = Coin(seed, 0, first + i, 0);
  return coins;
}

// Five standard deviations of the mean of n independent draws of variance `variance`: a false alarm
// in 2 million.
inline double FiveSigma(double variance, std::size_t n) {
  return 5.0 * std::sqrt(variance / static_cast<double>(n));
}

inline std::size_t Kept(const PolicyOutput& out) {
  std::size_t kept = 0;
  for (const std::uint8_t k : out.keep) kept += k;
  return kept;
}

}  // namespace siftd
