// SPDX-License-Identifier: Apache-2.0
#include "client/python/native/batch_maker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace siftd {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Row i has id 10 * seq + i, and "x" = that id.
BatchMaker::Candidate Candidate(std::uint64_t seq, std::uint32_t rows = 4, std::uint64_t pass = 0) {
  BatchMaker::Candidate c;
  c.key = {0, pass, seq};
  c.epoch = static_cast<std::uint32_t>(pass);
  std::vector<float> x;
  for (std::uint32_t i = 0; i < rows; ++i) {
    c.sample_id.push_back(10 * seq + i);
    x.push_back(static_cast<float>(10 * seq + i));
  }
  c.fields.push_back(
      {"x", DType::kFloat32, {rows}, Frame::Copy(x.data(), x.size() * sizeof(float))});
  return c;
}

Decision Keep(std::vector<std::uint32_t> kept, std::uint32_t rows = 4) {
  Decision d;
  d.outcome = Outcome::kDecided;
  d.rows = rows;
  d.kept = std::move(kept);
  d.score.assign(rows, 0.5f);
  d.score_seconds = 0.25f;
  d.model_version = 3;
  return d;
}

std::vector<float> X(const TrainBatch& batch) {
  std::vector<float> x(batch.rows());
  std::memcpy(x.data(), batch.tensors[0].bytes.data(), batch.tensors[0].bytes.size());
  return x;
}

TEST(BatchMaker, KeptRowsOfSeveralCandidatesMakeABatch) {
  BatchMaker maker({.batch_size = 3});
  for (const std::uint64_t seq : {0, 1}) maker.Admit(Candidate(seq));
  EXPECT_TRUE(maker.hungry());
  ASSERT_TRUE(maker.Decide({0, 0, 1}, Keep({0, 3}), 0.1).ok());
  EXPECT_EQ(maker.Take(), std::nullopt);
  ASSERT_TRUE(maker.Decide({0, 0, 0}, Keep({1, 2}), 0.1).ok());
  EXPECT_FALSE(maker.hungry());
  const auto item = maker.Take();
  ASSERT_TRUE(item && item->batch);
  EXPECT_THAT(X(*item->batch), ElementsAre(10, 13, 1));
  EXPECT_THAT(item->batch->sample_id, ElementsAre(10, 13, 1));
  EXPECT_EQ(maker.undecided(), 0u);
  EXPECT_TRUE(maker.hungry());
  const auto posts = maker.TakePosts();
  ASSERT_EQ(posts.size(), 2u);
  EXPECT_EQ(posts[0].key, (BatchKey{0, 0, 1}));
  EXPECT_EQ(posts[0].kept, 2u);
  EXPECT_THAT(maker.TakePosts(), IsEmpty());
}

TEST(BatchMaker, ThePassEndsAfterItsLastVerdict) {
  BatchMaker maker({.batch_size = 3});
  maker.Admit(Candidate(0));
  maker.End(7, false);
  EXPECT_EQ(maker.Take(), std::nullopt) << "one is undecided";
  ASSERT_TRUE(maker.Decide({0, 0, 0}, Keep({2}), 0.1).ok());
  auto item = maker.Take();
  ASSERT_TRUE(item && item->batch);
  EXPECT_THAT(X(*item->batch), ElementsAre(2)) << "the remainder";
  item = maker.Take();
  ASSERT_TRUE(item && !item->batch);
  EXPECT_EQ(item->epoch, 7u);
  EXPECT_EQ(maker.Take(), std::nullopt);
}

TEST(BatchMaker, ARemainderIsCarriedOverUnlessItIsFlushed) {
  BatchMaker maker({.batch_size = 3, .carry = true});
  maker.Admit(Candidate(0));
  ASSERT_TRUE(maker.Decide({0, 0, 0}, Keep({0}), 0.1).ok());
  maker.End(0, false);
  auto item = maker.Take();
  ASSERT_TRUE(item && !item->batch);
  maker.Admit(Candidate(0, 4, 1));
  ASSERT_TRUE(maker.Decide({0, 1, 0}, Keep({1}), 0.1).ok());
  maker.End(1, true);
  item = maker.Take();
  ASSERT_TRUE(item && item->batch);
  EXPECT_THAT(X(*item->batch), ElementsAre(0, 1));
  item = maker.Take();
  ASSERT_TRUE(item && !item->batch);
  EXPECT_EQ(item->epoch, 1u);
}

TEST(BatchMaker, TheOldestPassesUnsifted) {
  BatchMaker maker({.batch_size = 4});
  for (const std::uint64_t seq : {1, 0}) maker.Admit(Candidate(seq));
  Status status;
  EXPECT_EQ(maker.PassOldest(&status), (BatchKey{0, 0, 0}));
  ASSERT_TRUE(status.ok());
  const auto item = maker.Take();
  ASSERT_TRUE(item && item->batch);
  EXPECT_THAT(X(*item->batch), ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(item->batch->spans[0].outcome, Outcome::kUnsifted);
  EXPECT_THAT(item->batch->keep_probability, ElementsAre(1, 1, 1, 1));
  ASSERT_TRUE(maker.Decide({0, 0, 0}, Keep({0}), 0.1).ok()) << "a late verdict";
  EXPECT_EQ(maker.figures().decided, 4u);
  EXPECT_EQ(maker.figures().unsifted, 4u);
}

TEST(BatchMaker, ARejectedBatchIsTrainedUnsifted) {
  BatchMaker maker({.batch_size = 4});
  maker.Admit(Candidate(0));
  ASSERT_TRUE(
      maker.Decide({0, 0, 0}, RejectedDecision(4, ErrorCode::kBadTensor, "no such field"), 0.1)
          .ok());
  ASSERT_TRUE(maker.Take());
  EXPECT_EQ(maker.rejection(), "no such field");
  EXPECT_EQ(maker.figures().rejected_batches, 1u);
  EXPECT_EQ(maker.figures().unsifted, 4u);
}

TEST(BatchMaker, APolicyWithoutProbabilitiesHasNone) {
  BatchMaker maker({.batch_size = 1});
  maker.Admit(Candidate(0));
  ASSERT_TRUE(maker.Decide({0, 0, 0}, Keep({0}), 0.1).ok());
  const auto item = maker.Take();
  ASSERT_TRUE(item && item->batch);
  EXPECT_TRUE(std::isnan(item->batch->keep_probability[0]));
  EXPECT_EQ(item->batch->weight[0], 1.0f);
}

TEST(BatchMaker, RowsOfAnotherShapeAreAnError) {
  BatchMaker maker({.batch_size = 8});
  maker.Admit(Candidate(0));
  auto other = Candidate(1);
  other.fields[0].shape = {4, 1};
  maker.Admit(std::move(other));
  ASSERT_TRUE(maker.Decide({0, 0, 0}, Keep({0}), 0.1).ok());
  const Status status = maker.Decide({0, 0, 1}, Keep({0}), 0.1);
  EXPECT_THAT(status.message(), HasSubstr("cannot stand in one batch"));
}

TEST(BatchMaker, ARowThatIsNotThereIsAnError) {
  BatchMaker maker({.batch_size = 8});
  maker.Admit(Candidate(0));
  EXPECT_FALSE(maker.Decide({0, 0, 0}, Keep({4}), 0.1).ok());
}

TEST(BatchMaker, ACancelForgetsWhatWasNotTaken) {
  BatchMaker maker({.batch_size = 3});
  for (const std::uint64_t seq : {0, 1}) maker.Admit(Candidate(seq));
  ASSERT_TRUE(maker.Decide({0, 0, 0}, Keep({0, 1}), 0.1).ok());
  maker.End(0, false);
  maker.Cancel();
  EXPECT_EQ(maker.figures().cancelled, 4u + 2u);
  EXPECT_THAT(maker.TakePosts(), IsEmpty());
  EXPECT_EQ(maker.Take(), std::nullopt);
  maker.Admit(Candidate(0, 4, 1));
  ASSERT_TRUE(maker.Decide({0, 1, 0}, Keep({0, 1, 3}), 0.1).ok());
  const auto item = maker.Take();
  ASSERT_TRUE(item && item->batch);
  EXPECT_THAT(X(*item->batch), ElementsAre(0, 1, 3));
}

TEST(BatchMaker, UntakenRowsAreToldOldestFirst) {
  BatchMaker maker({.batch_size = 3});
  maker.Admit(Candidate(0, 8));
  ASSERT_TRUE(maker.Decide({0, 0, 0}, Keep({0, 2, 4, 6, 7}, 8), 0.1).ok());
  std::vector<float> all;
  for (const TrainBatch& part : maker.Untaken()) {
    for (const float x : X(part)) all.push_back(x);
  }
  EXPECT_THAT(all, ElementsAre(0, 2, 4, 6, 7));
  ASSERT_TRUE(maker.Take());
  const auto rest = maker.Untaken();
  ASSERT_EQ(rest.size(), 1u);
  EXPECT_THAT(X(rest[0]), ElementsAre(6, 7));
}

TEST(BatchMaker, RowsOfAStateGoFirst) {
  BatchMaker maker({.batch_size = 2});
  auto saved = Candidate(9, 1);
  Selected rows;
  rows.key = saved.key;
  rows.sample_id = saved.sample_id;
  rows.tensors = saved.fields;
  rows.decision = UnsiftedDecision(1);
  ASSERT_TRUE(maker.Restore(std::move(rows)).ok());
  maker.Admit(Candidate(0));
  ASSERT_TRUE(maker.Decide({0, 0, 0}, Keep({1}), 0.1).ok());
  const auto item = maker.Take();
  ASSERT_TRUE(item && item->batch);
  EXPECT_THAT(X(*item->batch), ElementsAre(90, 1));
}

TEST(BatchMaker, RemembersRecentScores) {
  BatchMaker maker({.batch_size = 2, .history_length = 3, .history = {7, 8}});
  maker.Admit(Candidate(0, 2));
  ASSERT_TRUE(maker.Decide({0, 0, 0}, Keep({0}, 2), 0.1).ok());
  EXPECT_THAT(maker.history(), ElementsAre(8, 0.5f, 0.5f));
  EXPECT_EQ(maker.figures().scored_rows, 2u);
  EXPECT_EQ(maker.figures().verdicts, 1u);
}

}  // namespace
}  // namespace siftd
