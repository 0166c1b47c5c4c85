// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/sorted_scores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace siftd {
namespace {

std::size_t CountBelow(const std::vector<float>& scores, float score) {
  return static_cast<std::size_t>(
      std::count_if(scores.begin(), scores.end(), [&](float s) { return s < score; }));
}

TEST(SortedScores, EmptyHasNothingBelow) {
  SortedScores sorted;
  EXPECT_EQ(sorted.Below(0.0f), 0u);
  sorted.Insert(1.0f);
  sorted.Erase(1.0f);
  EXPECT_EQ(sorted.size(), 0u);
  EXPECT_EQ(sorted.Below(9.0f), 0u);
}

TEST(SortedScores, ZeroesOfBothSignsAreEqual) {
  SortedScores sorted;
  sorted.Insert(-0.0f);
  sorted.Insert(0.0f);
  EXPECT_EQ(sorted.Below(0.0f), 0u);
  EXPECT_EQ(sorted.Below(-0.0f), 0u);
  sorted.Erase(0.0f);
  sorted.Erase(0.0f);
  EXPECT_EQ(sorted.size(), 0u);
}

TEST(SortedScores, ExtremesKeepTheirOrder) {
  using Limits = std::numeric_limits<float>;
  const std::vector<float> ascending = {Limits::lowest(),      -1.0f, -Limits::min(),
                                        -Limits::denorm_min(), 0.0f,  Limits::denorm_min(),
                                        Limits::min(),         1.0f,  Limits::max()};
  SortedScores sorted;
  for (const float s : ascending) sorted.Insert(s);
  for (std::size_t i = 0; i < ascending.size(); ++i) EXPECT_EQ(sorted.Below(ascending[i]), i);
  EXPECT_EQ(sorted.Below(Limits::infinity()), ascending.size());
}

// Grows past several blocks, shrinks to nothing and grows again, by every kind of sequence.
struct Sequence {
  const char* name;
  float (*next)(std::mt19937&, int);
};

class SortedScoresAgainstAScan : public testing::TestWithParam<Sequence> {};

TEST_P(SortedScoresAgainstAScan, GivesTheSameRanks) {
  std::mt19937 rng(5);
  SortedScores sorted;
  std::vector<float> naive;
  const auto check = [&](float probe) {
    ASSERT_EQ(sorted.size(), naive.size());
    for (const float p : {probe, std::nextafter(probe, 1e30f), std::nextafter(probe, -1e30f)})
      ASSERT_EQ(sorted.Below(p), CountBelow(naive, p)) << p;
  };
  for (int i = 0; i < 12000; ++i) {
    const bool grow = (i / 1500) % 2 == 0 || i > 10500;
    const float score = GetParam().next(rng, i);
    if (naive.empty() || (grow ? rng() % 8 != 0 : rng() % 8 == 0)) {
      naive.push_back(score);
      sorted.Insert(score);
    } else {
      std::swap(naive[rng() % naive.size()], naive.back());
      sorted.Erase(naive.back());
      naive.pop_back();
    }
    if (i % 3 == 0) {
      ASSERT_NO_FATAL_FAILURE(check(score)) << i;
    }
    // Neighbouring blocks hold more than two thirds of a block together.
    ASSERT_LE(sorted.blocks(), 1 + 3 * sorted.size() / SortedScores::kBlock) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sequences, SortedScoresAgainstAScan,
    testing::Values(
        Sequence{"Losses",
                 [](std::mt19937& r, int) { return std::lognormal_distribution<float>()(r); }},
        Sequence{"BothSigns",
                 [](std::mt19937& r, int) { return std::normal_distribution<float>()(r); }},
        Sequence{"FewValues", [](std::mt19937& r, int) { return static_cast<float>(r() % 5) - 2; }},
        Sequence{"OneValue", [](std::mt19937&, int) { return 1.5f; }},
        Sequence{"Rising", [](std::mt19937&, int i) { return static_cast<float>(i); }},
        Sequence{"Falling", [](std::mt19937&, int i) { return static_cast<float>(-i); }}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace siftd
