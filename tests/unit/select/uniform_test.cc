// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/uniform.h"

#include <gtest/gtest.h>

#include "tests/unit/select/draw.h"

namespace siftd {
namespace {

TEST(UniformPolicy, KeepsTheRequestedFraction) {
  constexpr std::size_t kRows = 100'000;
  for (const double keep : {0.05, 0.5, 0.9}) {
    UniformPolicy policy({keep});
    PolicyOutput out;
    const std::vector<float> score(kRows, 1.0f);
    policy.Select({score, Coins(1, 0, kRows)}, &out);
    EXPECT_NEAR(static_cast<double>(Kept(out)) / kRows, keep, FiveSigma(keep * (1 - keep), kRows));
  }
}

TEST(UniformPolicy, KeepOneKeepsAll) {
  UniformPolicy policy({1.0});
  PolicyOutput out;
  const std::vector<float> score(1000, 1.0f);
  policy.Select({score, Coins(1, 0, 1000)}, &out);
  EXPECT_EQ(Kept(out), 1000u);
}

}  // namespace
}  // namespace siftd
