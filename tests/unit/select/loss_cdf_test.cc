// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/loss_cdf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/select/draw.h"

namespace siftd {
namespace {

std::vector<float> Losses(std::mt19937& rng, std::size_t n) {
  std::exponential_distribution<float> loss(1.0f);
  std::vector<float> losses(n);
  for (float& l : losses) l = loss(rng);
  return losses;
}

// SageMaker's documented table: kept share = 1 / (1 + beta).
TEST(LossCdfPolicy, KeepsOneOverOnePlusBeta) {
  constexpr std::size_t kRows = 500;
  constexpr std::size_t kBatches = 200;
  for (const double beta : {0.25, 1.0, 2.0, 3.0}) {
    LossCdfPolicy policy({.beta = beta, .loss_history_length = 10'000});
    std::mt19937 rng(3);
    policy.Observe(Losses(rng, 10'000));
    PolicyOutput out;
    std::size_t kept = 0;
    for (std::size_t b = 0; b < kBatches; ++b) {
      const std::vector<float> losses = Losses(rng, kRows);
      policy.Select({losses, Coins(17, b * kRows, kRows)}, &out);
      kept += Kept(out);
    }
    const double keep = 1 / (1 + beta);
    const std::size_t n = kRows * kBatches;
    // The CDF comes from a window of 10,000, whose error adds to the coin's.
    const double tolerance =
        FiveSigma(keep * (1 - keep), n) + FiveSigma(keep * (1 - keep), 10'000) / 5;
    EXPECT_NEAR(static_cast<double>(kept) / static_cast<double>(n), keep, tolerance)
        << "beta " << beta;
  }
}

TEST(LossCdfPolicy, BatchEntersTheHistoryFirst) {
  LossCdfPolicy policy({.beta = 1.0, .loss_history_length = 4});
  PolicyOutput out;
  policy.Select({std::vector<float>{4, 1, 3, 2}, Coins(1, 0, 4)}, &out);
  EXPECT_THAT(out.percentile, testing::ElementsAre(0.75f, 0.0f, 0.5f, 0.25f));
  EXPECT_THAT(out.probability, testing::ElementsAre(0.75f, 0.0f, 0.5f, 0.25f));
}

TEST(LossCdfPolicy, FloorAndClip) {
  LossCdfPolicy policy({.beta = 1.0, .loss_history_length = 4, .floor = 0.3, .clip = 0.6});
  PolicyOutput out;
  policy.Select({std::vector<float>{4, 1, 3, 2}, Coins(1, 0, 4)}, &out);
  EXPECT_THAT(out.probability, testing::ElementsAre(0.0f, 0.3f, 0.5f, 0.3f));
}

}  // namespace
}  // namespace siftd
