// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/selector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "pipeline/select/coin.h"

namespace siftd {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

ScoredBatch Batch(PolicyOptions policy, std::vector<float> loss,
                  std::vector<float> confidence = {}) {
  ScoredBatch batch;
  batch.candidates.run = 1;
  batch.candidates.sample_id.resize(loss.size());
  std::iota(batch.candidates.sample_id.begin(), batch.candidates.sample_id.end(), 100u);
  JobSpec job;
  job.policy = std::move(policy);
  job.seed = 42;
  batch.job = std::make_shared<const JobSpec>(job);
  batch.scores.names = {"loss"};
  batch.scores.columns = {std::move(loss)};
  if (!confidence.empty()) {
    batch.scores.names.push_back("confidence");
    batch.scores.columns.push_back(std::move(confidence));
  }
  batch.model_version = 7;
  batch.model_step = 140;
  return batch;
}

PolicyOptions Uniform(double keep) {
  PolicyOptions policy;
  policy.kind = UniformOptions{keep};
  return policy;
}

TEST(Selector, DecidesByTheCoinOfTheSampleId) {
  Selector selector;
  ScoredBatch batch = Batch(Uniform(0.5), std::vector<float>(64, 1.0f));
  selector.Select(batch);
  std::vector<std::uint32_t> expected;
  for (std::uint32_t i = 0; i < 64; ++i) {
    if (Coin(42, 0, 100 + i, 0) < 0.5) expected.push_back(i);
  }
  EXPECT_EQ(batch.decision.outcome, Outcome::kDecided);
  EXPECT_EQ(batch.decision.kept, expected);
  EXPECT_EQ(batch.decision.rows, 64u);
  EXPECT_EQ(batch.decision.weight, std::vector<float>(expected.size(), 2.0f));
  EXPECT_EQ(batch.decision.model_version, 7u);
  EXPECT_EQ(batch.decision.model_step, 140u);
}

TEST(Selector, OccurrenceAndEpochGiveAnotherCoin) {
  Selector selector;
  ScoredBatch first = Batch(Uniform(0.5), std::vector<float>(64, 1.0f));
  ScoredBatch again = first;
  again.candidates.occurrence.assign(64, 1);
  ScoredBatch epoch = first;
  epoch.candidates.epoch = 1;
  for (ScoredBatch* b : {&first, &again, &epoch}) selector.Select(*b);
  EXPECT_NE(first.decision.kept, again.decision.kept);
  EXPECT_NE(first.decision.kept, epoch.decision.kept);
}

TEST(Selector, AutoIsConfidenceWhereTheScorerSeesLogits) {
  Selector selector;
  ScoredBatch batch = Batch({}, {1, 1}, {0.0f, 0.99f});
  selector.Select(batch);
  EXPECT_EQ(batch.decision.column, "confidence");
  EXPECT_THAT(batch.decision.keep_probability, ElementsAre(1.0f, 0.05f));
}

TEST(Selector, AutoIsLossCdfElsewhere) {
  Selector selector;
  ScoredBatch batch = Batch({}, {2, 1});
  selector.Select(batch);
  EXPECT_EQ(batch.decision.column, "loss");
  EXPECT_THAT(batch.decision.percentile, ElementsAre(0.5f, 0.0f));
}

TEST(Selector, MissingColumnIsRejectedByName) {
  Selector selector;
  PolicyOptions policy = Uniform(1);
  policy.column = "grad_norm";
  ScoredBatch batch = Batch(policy, {1, 2});
  selector.Select(batch);
  EXPECT_EQ(batch.decision.outcome, Outcome::kRejected);
  EXPECT_EQ(batch.decision.code, ErrorCode::kModelMismatch);
  EXPECT_THAT(batch.decision.text, HasSubstr("'grad_norm'; the artifact has: loss"));
}

TEST(Selector, NonFiniteRowsAreDroppedByDefault) {
  Selector selector;
  PolicyOptions policy;
  policy.kind = LossCdfOptions{.beta = 1, .floor = 1.0};  // keeps every finite row
  ScoredBatch batch = Batch(policy, {1, NAN, std::numeric_limits<float>::infinity(), 2});
  selector.Select(batch);
  EXPECT_THAT(batch.decision.kept, ElementsAre(0, 3));
  EXPECT_THAT(batch.decision.keep_probability, ElementsAre(1, 0, 0, 1));
}

TEST(Selector, NonFiniteRowsAreKeptWhenAsked) {
  Selector selector;
  PolicyOptions policy;
  policy.kind = TopKOptions{.keep = 0.5};
  policy.non_finite = NonFinite::kKeep;
  ScoredBatch batch = Batch(policy, {1, NAN, 2});
  selector.Select(batch);
  EXPECT_THAT(batch.decision.kept, ElementsAre(1, 2));
}

// Bug: the weights were read off probabilities that nobody had filled.
TEST(Selector, ABatchWithoutAFiniteScoreIsKeptWhenAsked) {
  for (const auto& kind : {decltype(PolicyOptions::kind){UniformOptions{0.5}},
                           decltype(PolicyOptions::kind){LossCdfOptions{}}}) {
    Selector selector;
    PolicyOptions policy;
    policy.kind = kind;
    policy.non_finite = NonFinite::kKeep;
    ScoredBatch batch = Batch(policy, {NAN, NAN, std::numeric_limits<float>::infinity()});
    selector.Select(batch);
    EXPECT_THAT(batch.decision.kept, ElementsAre(0, 1, 2));
    EXPECT_THAT(batch.decision.weight, ElementsAre(1, 1, 1));
  }
}

TEST(Selector, RankPolicyHasNoWeights) {
  Selector selector;
  PolicyOptions policy;
  policy.kind = ComposerRankOptions{.keep = 0.5};
  ScoredBatch batch = Batch(policy, {1, 2, 3, 4});
  selector.Select(batch);
  EXPECT_EQ(batch.decision.kept.size(), 2u);
  EXPECT_THAT(batch.decision.weight, IsEmpty());
  EXPECT_THAT(batch.decision.keep_probability, IsEmpty());
}

TEST(Selector, OutsideTheWindowAllRowsAreKeptAndTheHistoryLearns) {
  Selector selector;
  PolicyOptions policy;
  policy.kind = LossCdfOptions{.beta = 1};
  policy.modifiers.sift_delay = 5;
  ScoredBatch before = Batch(policy, {1, 2, 3});
  selector.Select(before);
  EXPECT_EQ(before.decision.outcome, Outcome::kUnsifted);
  EXPECT_THAT(before.decision.kept, ElementsAre(0, 1, 2));
  ScoredBatch after = Batch(policy, {2.5f});
  after.trainer_step = 5;
  selector.Select(after);
  EXPECT_THAT(after.decision.percentile, ElementsAre(0.5f));  // 1, 2 of 1, 2, 3, 2.5
}

TEST(Selector, PriorScoreReplacesTheComputedOne) {
  Selector selector;
  PolicyOptions policy;
  policy.kind = TopKOptions{.keep = 0.5};
  ScoredBatch batch = Batch(policy, {1, 2});
  batch.candidates.prior_score = {9, NAN};
  selector.Select(batch);
  EXPECT_THAT(batch.decision.kept, ElementsAre(0));
  EXPECT_THAT(batch.decision.score, ElementsAre(9, 2));
}

// The policy that nobody named depends on the columns, which a batch that needs no model has too.
TEST(Selector, PriorScoresAloneDecide) {
  Selector selector;
  ScoredBatch batch = Batch({}, {NAN, NAN});
  batch.candidates.prior_score = {1.0f, 0.0f};
  batch.scores.names = {"loss", "confidence"};
  batch.scores.columns.clear();
  batch.model_version = batch.model_step = 0;
  selector.Select(batch);
  EXPECT_EQ(batch.decision.outcome, Outcome::kDecided);
  EXPECT_EQ(batch.decision.column, "confidence");
  EXPECT_THAT(batch.decision.score, ElementsAre(1, 0));
  EXPECT_THAT(batch.decision.keep_probability, ElementsAre(0.05f, 1));
  EXPECT_EQ(batch.decision.model_version, 0u);
  EXPECT_EQ(batch.decision.score_seconds, 0.0f);
}

TEST(Selector, PriorScoresDecideAsComputedOnesDo) {
  PolicyOptions policy;
  policy.kind = LossCdfOptions{.beta = 1};
  Selector scored;
  Selector known;
  ScoredBatch a = Batch(policy, {1, 2, 3, 4});
  ScoredBatch b = Batch(policy, {0, 0, 0, 0});
  b.candidates.prior_score = {1, 2, 3, 4};
  scored.Select(a);
  known.Select(b);
  EXPECT_EQ(a.decision.kept, b.decision.kept);
  EXPECT_EQ(a.decision.percentile, b.decision.percentile);
}

TEST(Selector, PassThroughNeedsNoScores) {
  Selector selector;
  ScoredBatch batch = Batch(Uniform(0.01), {});
  batch.candidates.sample_id = {1, 2, 3};
  batch.pass_through = true;
  selector.Select(batch);
  EXPECT_EQ(batch.decision.outcome, Outcome::kUnsifted);
  EXPECT_THAT(batch.decision.kept, ElementsAre(0, 1, 2));
}

TEST(Selector, RejectionStays) {
  Selector selector;
  ScoredBatch batch = Batch(Uniform(1), {1});
  batch.decision = RejectedDecision(1, ErrorCode::kBadTensor, "no");
  selector.Select(batch);
  EXPECT_EQ(batch.decision.text, "no");
}

TEST(Selector, NewRunForgetsTheHistoryAndTakesTheSeed) {
  Selector selector;
  PolicyOptions policy;
  policy.kind = LossCdfOptions{.beta = 1};
  ScoredBatch first = Batch(policy, {1, 2, 3});
  selector.Select(first);
  selector.SeedHistory(1, 2, {100, 100});  // the run has its own history: not taken
  ScoredBatch same = Batch(policy, {5});
  selector.Select(same);
  EXPECT_THAT(same.decision.percentile, ElementsAre(0.75f));

  selector.SeedHistory(2, 1, {10, 20, NAN});
  ScoredBatch next = Batch(policy, {15});
  next.candidates.run = 2;
  selector.Select(next);
  EXPECT_FLOAT_EQ(next.decision.percentile.at(0), 1.0f / 3);
}

TEST(Selector, ABatchThatRequiresAVersionSeesThatVersionsHistoryAlone) {
  Selector selector;
  PolicyOptions policy;
  policy.kind = LossCdfOptions{.beta = 1};
  selector.SeedHistory(1, 3, {1, 2, 3});
  const auto percentile = [&](float score) {
    ScoredBatch batch = Batch(policy, {score});
    batch.candidates.required_version = batch.model_version = 3;
    selector.Select(batch);
    return batch.decision.percentile.at(0);
  };
  EXPECT_FLOAT_EQ(percentile(10), 0.75f);
  ScoredBatch other = Batch(policy, {20, 20, 20});  // requires none: the history learns from it
  selector.Select(other);
  EXPECT_FLOAT_EQ(percentile(10), 0.75f);
  selector.SeedHistory(1, 3, {});
  EXPECT_FLOAT_EQ(percentile(10), 0.0f);
}

TEST(Selector, AVersionOtherThanTheRequiredOneIsRejected) {
  Selector selector;
  selector.SeedHistory(1, 3, {});
  for (const auto& [scored_by, required] : {std::pair{4u, 3u}, std::pair{2u, 2u}}) {
    ScoredBatch batch = Batch(Uniform(1), {1, 2});
    batch.model_version = scored_by;
    batch.candidates.required_version = required;
    selector.Select(batch);
    EXPECT_EQ(batch.decision.outcome, Outcome::kRejected);
    EXPECT_EQ(batch.decision.code, ErrorCode::kStale);
    EXPECT_EQ(batch.decision.rows, 2u);
    EXPECT_THAT(batch.decision.text, HasSubstr("required_version is " + std::to_string(required)));
  }
}

}  // namespace
}  // namespace siftd
