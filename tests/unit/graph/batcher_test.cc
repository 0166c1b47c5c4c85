// SPDX-License-Identifier: Apache-2.0
#include "pipeline/graph/batcher.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/graph/batches.h"

namespace siftd {
namespace {

const MonoTime kStart{};

std::vector<ScoreGroupPtr> Add(Batcher& batcher, ScoredBatchPtr batch, MonoTime now = kStart) {
  std::vector<ScoreGroupPtr> ready;
  batcher.Add(std::move(batch), now, &ready);
  return ready;
}

std::vector<ScoreGroupPtr> Tick(Batcher& batcher, MonoTime now) {
  std::vector<ScoreGroupPtr> ready;
  batcher.Tick(now, &ready);
  return ready;
}

TEST(Batcher, MergesUpToMaxRows) {
  Batcher batcher({.max_rows = 8, .max_age = milliseconds(5)});
  EXPECT_TRUE(Add(batcher, MakeBatch(0)).empty());
  const auto ready = Add(batcher, MakeBatch(1));
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_EQ(ready[0]->rows, 8);
  EXPECT_EQ(ready[0]->batches.size(), 2u);
  EXPECT_TRUE(batcher.empty());
}

TEST(Batcher, CountsTheRowsToScore) {
  Batcher batcher({.max_rows = 8, .max_age = milliseconds(5)});
  for (std::uint64_t seq = 0; seq < 3; ++seq) {
    auto batch = MakeBatch(seq);
    batch->candidates.prior_score = {1, NAN, 1, NAN};
    EXPECT_TRUE(Add(batcher, batch).empty());
  }
  const auto ready = Add(batcher, MakeBatch(3));
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_EQ(ready[0]->rows, 6);
  EXPECT_EQ(ready[0]->batches.size(), 3u);
}

TEST(Batcher, NeverSplitsALargeBatch) {
  Batcher batcher({.max_rows = 8, .max_age = milliseconds(5)});
  EXPECT_TRUE(Add(batcher, MakeBatch(0)).empty());
  const auto ready = Add(batcher, MakeBatch(1, 20));
  ASSERT_EQ(ready.size(), 2u);
  EXPECT_EQ(ready[0]->rows, 4);
  EXPECT_EQ(ready[1]->rows, 20);
}

TEST(Batcher, OtherShapesBeginAGroupOfTheirOwn) {
  Batcher batcher({.max_rows = 100, .max_age = milliseconds(5)});
  EXPECT_TRUE(Add(batcher, MakeBatch(0, 4, 2)).empty());
  const auto ready = Add(batcher, MakeBatch(1, 4, 3));
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_EQ(ready[0]->batches[0]->candidates.key.seq, 0u);
}

TEST(Batcher, AgeCountsFromTheFirstBatch) {
  Batcher batcher({.max_rows = 100, .max_age = milliseconds(5)});
  EXPECT_TRUE(Add(batcher, MakeBatch(0)).empty());
  EXPECT_TRUE(Add(batcher, MakeBatch(1), kStart + milliseconds(4)).empty());
  EXPECT_TRUE(Tick(batcher, kStart + milliseconds(4)).empty());
  const auto ready = Tick(batcher, kStart + milliseconds(5));
  ASSERT_EQ(ready.size(), 1u);
  EXPECT_EQ(ready[0]->batches.size(), 2u);
}

TEST(Batcher, ASuspectIsAlone) {
  Batcher batcher({.max_rows = 100, .max_age = milliseconds(5)});
  EXPECT_TRUE(Add(batcher, MakeBatch(0)).empty());
  auto suspect = MakeBatch(1);
  suspect->candidates.suspect = true;
  const auto ready = Add(batcher, suspect);
  ASSERT_EQ(ready.size(), 2u);
  EXPECT_EQ(ready[1]->batches.size(), 1u);
}

TEST(Batcher, ABatchThatRequiresAVersionIsAlone) {
  Batcher batcher({.max_rows = 100, .max_age = milliseconds(5)});
  for (int i = 0; i < 2; ++i) {
    auto exact = MakeBatch(i);
    exact->candidates.required_version = 1;
    const auto ready = Add(batcher, exact);
    ASSERT_EQ(ready.size(), 1u);
    EXPECT_EQ(ready[0]->batches.size(), 1u);
  }
}

}  // namespace
}  // namespace siftd
