// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/top_k.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/select/draw.h"

namespace siftd {
namespace {

TEST(TopKPolicy, KeepsTheHighest) {
  TopKPolicy policy({0.4});
  PolicyOutput out;
  policy.Select({std::vector<float>{1, 5, 3, 4, 2}, Coins(1, 0, 5)}, &out);
  EXPECT_THAT(out.keep, testing::ElementsAre(0, 1, 0, 1, 0));
}

TEST(TopKPolicy, RoundsUp) {
  TopKPolicy policy({0.01});
  PolicyOutput out;
  policy.Select({std::vector<float>{1, 5, 3}, Coins(1, 0, 3)}, &out);
  EXPECT_THAT(out.keep, testing::ElementsAre(0, 1, 0));
}

TEST(TopKPolicy, TiesFallByTheCoin) {
  TopKPolicy policy({0.5});
  PolicyOutput out;
  policy.Select({std::vector<float>{1, 1, 1, 1}, std::vector<double>{0.9, 0.1, 0.8, 0.2}}, &out);
  EXPECT_THAT(out.keep, testing::ElementsAre(0, 1, 0, 1));
}

TEST(TopKPolicy, EmptyBatch) {
  TopKPolicy policy({0.5});
  PolicyOutput out;
  policy.Select({}, &out);
  EXPECT_EQ(Kept(out), 0u);
}

}  // namespace
}  // namespace siftd
