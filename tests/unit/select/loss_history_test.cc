// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/loss_history.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>

namespace siftd {
namespace {

TEST(LossHistory, EmptyGivesZero) { EXPECT_EQ(LossHistory(4).Percentile(1.0f), 0.0); }

TEST(LossHistory, CountsStrictlyLower) {
  LossHistory history(4);
  for (const float s : {1.0f, 2.0f, 2.0f, 3.0f}) history.Add(s);
  EXPECT_DOUBLE_EQ(history.Percentile(1.0f), 0.0);
  EXPECT_DOUBLE_EQ(history.Percentile(2.0f), 0.25);
  EXPECT_DOUBLE_EQ(history.Percentile(2.5f), 0.75);
  EXPECT_DOUBLE_EQ(history.Percentile(9.0f), 1.0);
}

TEST(LossHistory, OldestLeaves) {
  LossHistory history(2);
  for (const float s : {5.0f, 1.0f, 2.0f}) history.Add(s);
  EXPECT_EQ(history.size(), 2u);
  EXPECT_DOUBLE_EQ(history.Percentile(4.0f), 1.0);
}

TEST(LossHistory, EqualsAScanOverTheWindow) {
  std::mt19937 rng(11);
  std::uniform_int_distribution<int> value(0, 50);  // many ties
  for (const std::size_t capacity : {1u, 97u, 700u}) {
    LossHistory history(capacity);
    std::deque<float> window;
    for (int i = 0; i < 5000; ++i) {
      const auto s = static_cast<float>(value(rng));
      history.Add(s);
      window.push_back(s);
      if (window.size() > capacity) window.pop_front();
      const auto probe = static_cast<float>(value(rng));
      const auto below =
          std::count_if(window.begin(), window.end(), [&](float x) { return x < probe; });
      ASSERT_DOUBLE_EQ(history.Percentile(probe),
                       static_cast<double>(below) / static_cast<double>(window.size()));
    }
  }
}

}  // namespace
}  // namespace siftd
