// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/composer_rank.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/unit/select/draw.h"

namespace siftd {
namespace {

TEST(ComposerRankPolicy, KeepsExactlyIntKeepN) {
  for (const auto& [keep, n, expected] :
       {std::tuple{0.5, 7u, 3u}, {0.33, 10u, 3u}, {1.0, 5u, 5u}, {0.1, 5u, 0u}}) {
    ComposerRankPolicy policy({keep});
    std::vector<float> loss(n);
    std::iota(loss.begin(), loss.end(), 0.0f);
    PolicyOutput out;
    policy.Select({loss, Coins(1, 0, n)}, &out);
    EXPECT_EQ(Kept(out), expected) << keep << " of " << n;
  }
}

// One row of two drawn: the winner's probability is its share of the weights ((rank + .5) / n)^(1 /
// keep - 1).
TEST(ComposerRankPolicy, FirstDrawFollowsTheWeights) {
  constexpr std::size_t kTrials = 50'000;
  constexpr double kKeep = 0.5;  // exponent 1: weights 0.25 and 0.75
  ComposerRankPolicy policy({kKeep});
  PolicyOutput out;
  const std::vector<float> loss{2.0f, 1.0f};
  std::size_t high = 0;
  for (std::size_t t = 0; t < kTrials; ++t) {
    policy.Select({loss, Coins(23, 2 * t, 2)}, &out);
    high += out.keep[0];
  }
  EXPECT_NEAR(static_cast<double>(high) / kTrials, 0.75, FiveSigma(0.75 * 0.25, kTrials));
}

TEST(ComposerRankPolicy, TinyKeepDoesNotUnderflow) {
  ComposerRankPolicy policy({0.001});
  std::vector<float> loss(2000);
  std::iota(loss.begin(), loss.end(), 0.0f);
  PolicyOutput out;
  policy.Select({loss, Coins(1, 0, loss.size())}, &out);
  ASSERT_EQ(Kept(out), 2u);
  // Weights rise as (rank / n)^999: with overwhelming probability both come from the top 2 %.
  for (std::size_t i = 0; i < loss.size() * 98 / 100; ++i) EXPECT_FALSE(out.keep[i]) << i;
}

}  // namespace
}  // namespace siftd
