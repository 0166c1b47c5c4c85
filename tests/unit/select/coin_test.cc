// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/coin.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/unit/select/draw.h"

namespace siftd {
namespace {

// Random123's published known answers for philox4x32-10.
TEST(Coin, PhiloxMatchesTheKnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Coin, EachArgumentChangesIt) {
  const std::set<double> coins{Coin(1, 2, 3, 4), Coin(9, 2, 3, 4), Coin(1ull << 32 | 1, 2, 3, 4),
                               Coin(1, 9, 3, 4), Coin(1, 2, 9, 4), Coin(1, 2, 1ull << 32 | 3, 4),
                               Coin(1, 2, 3, 9)};
  EXPECT_EQ(coins.size(), 7u);
}

TEST(Coin, IsUniform) {
  constexpr std::size_t kDraws = 200'000;
  constexpr std::size_t kBins = 100;
  std::vector<std::size_t> count(kBins);
  for (const double u : Coins(7, 0, kDraws)) {
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    ++count[static_cast<std::size_t>(u * kBins)];
  }
  const double expected = static_cast<double>(kDraws) / kBins;
  double chi2 = 0;
  for (const std::size_t c : count) chi2 += (c - expected) * (c - expected) / expected;
  // Chi-square with k = 99 degrees of freedom has mean k and variance 2k.
  EXPECT_NEAR(chi2, kBins - 1, 5.0 * std::sqrt(2.0 * (kBins - 1)));
}

TEST(Coin, NeighbouringIdsAreUncorrelated) {
  constexpr std::size_t kDraws = 200'000;
  const std::vector<double> u = Coins(3, 0, kDraws + 1);
  double sum = 0;
  for (std::size_t i = 0; i < kDraws; ++i) sum += (u[i] - 0.5) * (u[i + 1] - 0.5);
  EXPECT_NEAR(sum / kDraws, 0.0, FiveSigma(1.0 / 144, kDraws));
}

}  // namespace
}  // namespace siftd
