// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/confidence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/select/draw.h"

namespace siftd {
namespace {

TEST(ConfidencePolicy, ProbabilityIsClamped) {
  ConfidencePolicy policy({.tau = 0.5, .floor = 0.05});
  PolicyOutput out;
  const std::vector<float> p_max{0.1f, 0.5f, 0.75f, 0.99f, 1.0f};
  policy.Select({p_max, Coins(1, 0, p_max.size())}, &out);
  EXPECT_THAT(
      out.probability,
      testing::Pointwise(testing::FloatEq(), std::vector<float>{1.0f, 1.0f, 0.5f, 0.05f, 0.05f}));
}

TEST(ConfidencePolicy, KeepsEachRowWithItsProbability) {
  constexpr std::size_t kRows = 100'000;
  ConfidencePolicy policy({.tau = 0.5, .floor = 0.05});
  PolicyOutput out;
  policy.Select({std::vector<float>(kRows, 0.875f), Coins(5, 0, kRows)}, &out);
  EXPECT_NEAR(static_cast<double>(Kept(out)) / kRows, 0.25, FiveSigma(0.25 * 0.75, kRows));
}

}  // namespace
}  // namespace siftd
