// SPDX-License-Identifier: Apache-2.0
// Continuous scoring while versions change: a canary batch whose loss tells the version. With
// version v every weight is v, so each loss is 4 v; a mixture of two versions would give anything
// else.
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "pipeline/base/thread.h"
#include "pipeline/model/scorer.h"
#include "tests/unit/model/fixture.h"

namespace siftd {
namespace {

TEST(TornVersion, NeverSeenUnderContinuousSwaps) {
  constexpr std::uint64_t kVersions = 3000;
  ScorerOptions options;
  options.lanes = 2;
  Scorer scorer(options);
  ASSERT_TRUE(scorer.LoadArtifact(Archive(), Manifest()).ok());
  ASSERT_FALSE(scorer.Update(Weights(1, 1.0f)).has_value());

  std::atomic<bool> done{false};
  Thread publisher("publish", [&] {
    for (std::uint64_t v = 2; v <= kVersions; ++v) {
      if (scorer.Update(Weights(v, static_cast<float>(v))).has_value())
        ADD_FAILURE() << "refused " << v;
    }
    done = true;
  });
  std::atomic<int> scored{0};
  std::uint64_t last = 0;
  std::uint64_t seen = 0;
  while (!done || scored == 0) {
    std::vector<std::promise<ScoreGroupPtr>> answers(8);
    for (auto& answer : answers) {
      auto group = std::make_shared<ScoreGroup>();
      group->batches = {Ones(16)};
      scorer.Submit(group, [&answer](ScoreGroupPtr g) { answer.set_value(std::move(g)); });
    }
    for (auto& answer : answers) {
      const ScoreGroupPtr group = answer.get_future().get();
      const ScoredBatch& batch = *group->batches[0];
      ASSERT_NE(batch.decision.outcome, Outcome::kRejected) << batch.decision.text;
      for (const float loss : batch.scores.columns[0]) {
        ASSERT_EQ(loss, 4.0f * static_cast<float>(batch.model_version));
      }
      ASSERT_EQ(batch.model_step, 10 * batch.model_version);
      if (batch.model_version != last) ++seen;
      last = batch.model_version;
      ++scored;
    }
  }
  publisher.Join();
  EXPECT_GT(seen, 1u) << "the versions did not change while " << scored << " batches were scored";
}

}  // namespace
}  // namespace siftd
