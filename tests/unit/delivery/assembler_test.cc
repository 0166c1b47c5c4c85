// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/assembler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

namespace siftd {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Rows that name themselves: row i of key seq has id seq * 100 + i, "x" = [id, id], "y" = id.
Selected Rows(std::uint64_t seq, std::uint32_t kept, std::int64_t width = 2) {
  Selected s;
  s.key = {0, 0, seq};
  s.decision.outcome = Outcome::kDecided;
  s.decision.rows = 2 * kept;
  s.decision.model_version = seq + 1;
  s.decision.column = "loss";
  std::vector<float> x;
  std::vector<std::int64_t> y;
  for (std::uint32_t i = 0; i < kept; ++i) {
    const std::uint64_t id = seq * 100 + i;
    s.decision.kept.push_back(2 * i + 1);
    s.decision.weight.push_back(static_cast<float>(i) + 1);
    s.sample_id.push_back(id);
    for (std::int64_t k = 0; k < width; ++k) x.push_back(static_cast<float>(id));
    y.push_back(static_cast<std::int64_t>(id));
  }
  for (std::uint32_t i = 0; i < s.decision.rows; ++i)
    s.decision.score.push_back(static_cast<float>(i));
  s.tensors.push_back(
      {"x", DType::kFloat32, {kept, width}, Frame::Copy(x.data(), x.size() * sizeof(float))});
  s.tensors.push_back(
      {"y", DType::kInt64, {kept}, Frame::Copy(y.data(), y.size() * sizeof(std::int64_t))});
  return s;
}

void ExpectRowsNameThemselves(const TrainBatch& batch) {
  ASSERT_EQ(batch.tensors.size(), 2u);
  for (const Tensor& t : batch.tensors) {
    ASSERT_TRUE(Validate(t).ok());
    ASSERT_EQ(t.rows(), static_cast<std::int64_t>(batch.rows()));
  }
  for (std::size_t i = 0; i < batch.rows(); ++i) {
    float x[2];
    std::int64_t y;
    std::memcpy(x, batch.tensors[0].bytes.data() + i * sizeof(x), sizeof(x));
    std::memcpy(&y, batch.tensors[1].bytes.data() + i * sizeof(y), sizeof(y));
    EXPECT_EQ(x[0], static_cast<float>(batch.sample_id[i]));
    EXPECT_EQ(x[1], x[0]);
    EXPECT_EQ(y, static_cast<std::int64_t>(batch.sample_id[i]));
  }
}

std::vector<std::size_t> BatchSizes(Assembler& a) {
  std::vector<std::size_t> sizes;
  while (auto item = a.Take()) sizes.push_back(item->batch ? item->batch->rows() : 0);
  return sizes;
}

// A bug once: memory for a whole batch of rows as large as the first one was asked for, however
// much.
TEST(Assembler, ARowOfWhichNoBatchHasRoomIsRefused) {
  Assembler a({1 << 20, false});
  Selected rows = Rows(0, 1);
  rows.tensors = {{"x", DType::kUInt8, {1, 1 << 20}, Frame::Adopt(std::string(1 << 20, 'x'))}};
  const Status status = a.Add(std::move(rows));
  EXPECT_THAT(status.message(), HasSubstr("a row has 1048576 bytes"));
  EXPECT_EQ(a.buffered_rows(), 0u);
  EXPECT_TRUE(a.Add(Rows(1, 1)).ok()) << "the next ones are taken";
}

TEST(Assembler, MakesFullBatchesInOrder) {
  Assembler a({4, false});
  for (const std::uint64_t seq : {0, 1, 2}) ASSERT_TRUE(a.Add(Rows(seq, 3)).ok());
  EXPECT_EQ(a.buffered_rows(), 9u);
  const auto first = a.Take();
  ASSERT_TRUE(first && first->batch);
  EXPECT_THAT(first->batch->sample_id, ElementsAre(0, 1, 2, 100));
  ExpectRowsNameThemselves(*first->batch);
  EXPECT_THAT(a.TakeEmptied(), ElementsAre(BatchKey{0, 0, 0}));
  const auto second = a.Take();
  ASSERT_TRUE(second && second->batch);
  EXPECT_THAT(second->batch->sample_id, ElementsAre(101, 102, 200, 201));
  ExpectRowsNameThemselves(*second->batch);
  EXPECT_FALSE(a.Take());
  EXPECT_EQ(a.buffered_rows(), 1u);
}

TEST(Assembler, KeepsEachRowsDecision) {
  Assembler a({2, false});
  ASSERT_TRUE(a.Add(Rows(3, 2)).ok());
  const auto item = a.Take();
  ASSERT_TRUE(item && item->batch);
  EXPECT_THAT(item->batch->score, ElementsAre(1.0f, 3.0f));
  EXPECT_THAT(item->batch->weight, ElementsAre(1.0f, 2.0f));
  EXPECT_THAT(item->batch->keep_probability, ElementsAre(1.0f, 1.0f));
  EXPECT_TRUE(std::isnan(item->batch->percentile[0]));
  EXPECT_EQ(item->batch->score_column, "loss");
  ASSERT_EQ(item->batch->spans.size(), 1u);
  EXPECT_EQ(item->batch->spans[0].model_version, 4u);
  EXPECT_TRUE(item->batch->spans[0].last);
}

TEST(Assembler, AnEpochsRemainderIsAShortBatch) {
  Assembler a({4, false});
  ASSERT_TRUE(a.Add(Rows(0, 6)).ok());
  a.EndEpoch(7);
  ASSERT_TRUE(a.Add(Rows(1, 4)).ok());
  EXPECT_THAT(BatchSizes(a), ElementsAre(4, 2, 0, 4));
}

TEST(Assembler, AnEpochThatEndsOnAFullBatchHasNoShortOne) {
  Assembler a({3, false});
  ASSERT_TRUE(a.Add(Rows(0, 3)).ok());
  a.EndEpoch(0);
  a.EndEpoch(1);
  EXPECT_THAT(BatchSizes(a), ElementsAre(3, 0, 0));
}

TEST(Assembler, DropLastCarriesOverAndCountsTheRunsRest) {
  Assembler a({4, true});
  ASSERT_TRUE(a.Add(Rows(0, 3)).ok());
  a.EndEpoch(0);
  ASSERT_TRUE(a.Add(Rows(1, 3)).ok());
  a.EndEpoch(1);
  a.Finish();
  EXPECT_THAT(BatchSizes(a), ElementsAre(0, 4, 0));
  EXPECT_EQ(a.dropped_rows(), 2u);
  EXPECT_EQ(a.buffered_rows(), 0u);
  EXPECT_EQ(a.TakeEmptied().size(), 2u);
}

TEST(Assembler, FinishHandsTheRemainderOut) {
  Assembler a({4, false});
  ASSERT_TRUE(a.Add(Rows(0, 3)).ok());
  a.Finish();
  EXPECT_THAT(BatchSizes(a), ElementsAre(3));
}

TEST(Assembler, RefusesRowsOfAnotherShape) {
  Assembler a({4, false});
  ASSERT_TRUE(a.Add(Rows(0, 2)).ok());
  const Status s = a.Add(Rows(1, 2, 3));
  EXPECT_EQ(s.code(), Code::kInvalidArgument);
  EXPECT_THAT(s.message(), HasSubstr("'x' float32 [n, 3]"));
  EXPECT_THAT(s.message(), HasSubstr("'x' float32 [n, 2]"));
  EXPECT_EQ(a.buffered_rows(), 2u);
  EXPECT_TRUE(a.Add(Rows(2, 2)).ok());
}

TEST(Assembler, RefusesArraysThatDoNotFit) {
  Assembler a({4, false});
  Selected bad = Rows(0, 2);
  bad.decision.kept[1] = 99;
  EXPECT_FALSE(a.Add(std::move(bad)).ok());
  bad = Rows(0, 2);
  bad.sample_id.pop_back();
  EXPECT_FALSE(a.Add(std::move(bad)).ok());
  bad = Rows(0, 2);
  bad.decision.score.pop_back();
  EXPECT_FALSE(a.Add(std::move(bad)).ok());
  bad = Rows(0, 2);
  bad.tensors[1].shape = {1};
  EXPECT_FALSE(a.Add(std::move(bad)).ok());
  EXPECT_EQ(a.buffered_rows(), 0u);
}

TEST(Assembler, EmptyBatchesLeaveNothing) {
  Assembler a({4, false});
  ASSERT_TRUE(a.Add(Rows(0, 0)).ok());
  EXPECT_EQ(a.buffered_rows(), 0u);
  EXPECT_FALSE(a.Take());
}

TEST(Assembler, RowsOfAKeyAreGivenForAState) {
  Assembler a({4, false});
  ASSERT_TRUE(a.Add(Rows(0, 3)).ok());
  ASSERT_TRUE(a.Add(Rows(1, 9)).ok());  // 1 row in the first batch, 8 outside
  const Selected all = a.RowsOf({0, 0, 1});
  EXPECT_EQ(all.sample_id.size(), 9u);
  ASSERT_TRUE(a.Take());
  const Selected rest = a.RowsOf({0, 0, 1});  // 4 rows in the batch being built, 4 behind it
  EXPECT_THAT(rest.sample_id, ElementsAre(101, 102, 103, 104, 105, 106, 107, 108));
  EXPECT_TRUE(a.RowsOf({0, 0, 77}).sample_id.empty());

  Assembler restored({8, false});
  ASSERT_TRUE(restored.Add(rest).ok());
  const auto item = restored.Take();
  ASSERT_TRUE(item && item->batch);
  ExpectRowsNameThemselves(*item->batch);
  EXPECT_THAT(item->batch->sample_id, ElementsAre(101, 102, 103, 104, 105, 106, 107, 108));
  EXPECT_THAT(item->batch->weight, ElementsAre(2, 3, 4, 5, 6, 7, 8, 9));
  EXPECT_EQ(item->batch->spans[0].model_version, 2u);
}

// Whatever comes in, each row leaves once, in order, with its own bytes; and a batch handed out
// never changes.
TEST(Assembler, RandomBatchesLoseNothing) {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    const std::uint32_t batch_size = 1 + random() % 9;
    const bool drop_last = random() % 2 == 0;
    Assembler a({batch_size, drop_last});
    std::vector<std::uint64_t> in;
    std::vector<std::uint64_t> out;
    std::vector<TrainBatch> batches;
    std::size_t emptied = 0;
    std::size_t keys = 0;
    const auto take = [&] {
      while (auto item = a.Take()) {
        if (!item->batch) continue;
        out.insert(out.end(), item->batch->sample_id.begin(), item->batch->sample_id.end());
        batches.push_back(std::move(*item->batch));
      }
      emptied += a.TakeEmptied().size();
    };
    for (std::uint64_t seq = 0; seq < 20; ++seq) {
      const std::uint32_t kept = random() % 8;
      for (std::uint32_t i = 0; i < kept; ++i) in.push_back(seq * 100 + i);
      keys += kept > 0 ? 1 : 0;
      ASSERT_TRUE(a.Add(Rows(seq, kept)).ok());
      if (random() % 5 == 0) a.EndEpoch(0);
      if (random() % 2 == 0) take();
    }
    a.Finish();
    take();
    ASSERT_EQ(a.buffered_rows(), 0u);
    ASSERT_EQ(emptied, keys);
    ASSERT_EQ(out.size() + a.dropped_rows(), in.size());
    in.resize(out.size());
    ASSERT_EQ(out, in);
    for (const TrainBatch& batch : batches) {
      ExpectRowsNameThemselves(batch);
      ASSERT_TRUE(drop_last ? batch.rows() == batch_size : batch.rows() <= batch_size);
    }
  }
}

}  // namespace
}  // namespace siftd
