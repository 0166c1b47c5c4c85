// SPDX-License-Identifier: Apache-2.0
// Once its buffers have their size, deciding a batch allocates nothing.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "pipeline/select/selector.h"
#include "tests/bench/count_allocations.h"

namespace siftd {
namespace {

constexpr std::size_t kRows = 128;

TEST(SelectAllocations, TheCounterCounts) {
  const std::uint64_t before = Allocations();
  const auto made = std::make_unique<int>(1);
  EXPECT_EQ(Allocations(), before + 1) << *made;
}

struct Case {
  const char* name;
  PolicyOptions policy;
};

Case Make(const char* name, auto kind, ModifierOptions modifiers = {}) {
  Case c{name, {}};
  c.policy.kind = kind;
  c.policy.modifiers = modifiers;
  return c;
}

class SelectAllocations : public testing::TestWithParam<Case> {};

TEST_P(SelectAllocations, NoneInSteadyState) {
  JobSpec job;
  job.policy = GetParam().policy;
  ScoredBatch batch;
  batch.job = std::make_shared<const JobSpec>(job);
  batch.candidates.run = 1;
  batch.candidates.sample_id.resize(kRows);
  batch.scores.names = {"loss", "confidence"};
  batch.scores.columns.assign(2, std::vector<float>(kRows));
  Selector selector;
  std::mt19937 rng(2);
  std::lognormal_distribution<float> losses;
  std::uniform_real_distribution<float> unit;
  std::uint64_t decided = 0;
  std::uint64_t allocations = 0;
  for (int i = 0; i < 200; ++i) {
    for (float& loss : batch.scores.columns[0]) loss = losses(rng);
    for (float& p : batch.scores.columns[1]) p = unit(rng);
    batch.scores.columns[0][7] = std::numeric_limits<float>::quiet_NaN();
    // As large as a decision of that many rows gets.
    batch.decision.kept.reserve(kRows);
    batch.decision.weight.reserve(kRows);
    const std::uint64_t before = Allocations();
    selector.Select(batch);
    if (i >= 100) allocations += Allocations() - before;
    decided += batch.decision.kept.size();
    batch.candidates.key.seq++;
  }
  EXPECT_GT(decided, 0u);
  EXPECT_EQ(allocations, 0u);
}

INSTANTIATE_TEST_SUITE_P(
    Policies, SelectAllocations,
    testing::Values(Make("Uniform", UniformOptions{}), Make("Confidence", ConfidenceOptions{}),
                    Make("LossCdf", LossCdfOptions{}), Make("ComposerRank", ComposerRankOptions{}),
                    Make("TopK", TopKOptions{}),
                    Make("SometimesUnsifted", LossCdfOptions{}, {.interrupt = 2})),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace siftd
