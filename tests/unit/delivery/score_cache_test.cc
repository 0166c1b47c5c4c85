// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/score_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

namespace siftd {
namespace {

using Ids = std::vector<std::uint64_t>;
using testing::Each;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::IsNan;

Ids Range(std::uint64_t first, std::size_t n) {
  Ids ids(n);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

// Rows that one pass scores; each is then given the score `value`.
std::size_t Pass(ScoreCache& cache, const Ids& ids, float value) {
  const std::vector<float> prior = cache.Visit(ids);
  cache.Take(ids, prior, std::vector<float>(ids.size(), value));
  std::size_t scored = 0;
  for (const float p : prior) scored += std::isnan(p);
  return scored;
}

TEST(ScoreCache, EachPassButTheFirstScoresAnNth) {
  constexpr std::size_t kRows = 20'000;
  ScoreCache cache(4);
  const Ids ids = Range(7'000'000'000, kRows);
  EXPECT_EQ(Pass(cache, ids, 0), kRows);
  for (float pass = 1; pass < 10; ++pass)
    EXPECT_NEAR(static_cast<double>(Pass(cache, ids, pass)), kRows / 4.0, kRows / 40.0) << pass;
  EXPECT_EQ(cache.size(), kRows);
}

TEST(ScoreCache, AScoreStandsForAtMostNMinusOneFurtherVisits) {
  ScoreCache cache(3);
  const Ids ids = Range(0, 1000);
  std::vector<int> since(ids.size(), 0);
  for (int visit = 0; visit < 20; ++visit) {
    const auto prior = cache.Visit(ids);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      since[i] = std::isnan(prior[i]) ? 0 : since[i] + 1;
      ASSERT_LE(since[i], 2);
    }
    cache.Take(ids, prior, std::vector<float>(ids.size(), static_cast<float>(visit)));
  }
}

TEST(ScoreCache, TheLastScoreDecides) {
  ScoreCache cache(254);
  const Ids ids{11, 12};
  cache.Take(ids, cache.Visit(ids), {0.5f, 0.25f});
  EXPECT_THAT(cache.Visit(ids), ElementsAre(0.5f, 0.25f));
  // A row that was decided by its prior brings no news.
  cache.Take(ids, {0.5f, NAN}, {9.0f, 8.0f});
  EXPECT_THAT(cache.Visit(ids), ElementsAre(0.5f, 8.0f));
}

TEST(ScoreCache, WhatIsNoNumberIsScoredAgain) {
  ScoreCache cache(254);
  const Ids ids{1, 2, 3};
  constexpr float kInf = std::numeric_limits<float>::infinity();
  cache.Take(ids, cache.Visit(ids), {NAN, kInf, -kInf});
  EXPECT_THAT(cache.Visit(ids), Each(IsNan()));
  EXPECT_EQ(cache.size(), 0u);
}

TEST(ScoreCache, ABatchWithoutScoresLeavesItAsItIs) {
  ScoreCache cache(4);
  const Ids ids = Range(0, 8);
  cache.Take(ids, cache.Visit(ids), {});
  EXPECT_EQ(cache.size(), 0u);
}

TEST(ScoreCache, MemoryIsBounded) {
  ScoreCache cache(254, 100);
  const Ids ids = Range(0, 1000);
  Pass(cache, ids, 1);
  EXPECT_EQ(cache.size(), 100u);
  EXPECT_GE(Pass(cache, ids, 1), 900u);
}

TEST(ScoreCache, EveryVisitKeepsNothing) {
  ScoreCache cache(1);
  EXPECT_THAT(cache.Visit({1, 2}), IsEmpty());
  cache.Take({1, 2}, {}, {1, 2});
  EXPECT_EQ(cache.size(), 0u);
}

// The Python loader's cache spreads its visits the same way (tests/python/test_score_cache.py).
TEST(ScoreCache, TheHashIsSplitMix64) {
  ScoreCache cache(4);
  const Ids ids = Range(0, 16);
  Pass(cache, ids, 0);
  std::vector<std::uint64_t> due;
  const auto prior = cache.Visit(ids);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (std::isnan(prior[i])) due.push_back(ids[i]);
  }
  EXPECT_THAT(due, ElementsAre(1, 3, 5, 7, 8, 12, 14));
}

}  // namespace
}  // namespace siftd
