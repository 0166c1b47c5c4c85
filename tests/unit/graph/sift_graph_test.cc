// SPDX-License-Identifier: Apache-2.0
#include "pipeline/graph/sift_graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>

#include "pipeline/base/bounded_queue.h"
#include "pipeline/base/thread.h"
#include "tests/unit/graph/batches.h"

namespace siftd {
namespace {

// Scores on a thread of its own: column "loss" = sample id. Remembers the most groups that it ever
// held.
class FakeScorer : public ScorerPort {
 public:
  FakeScorer() : thread_("scorer", [this] { Run(); }) {}
  ~FakeScorer() override {
    queue_.Close();
    thread_.Join();
  }
  void Submit(ScoreGroupPtr group, std::function<void(ScoreGroupPtr)> done) override {
    Task task{std::move(group), std::move(done)};
    ASSERT_EQ(queue_.TryPush(task), QueueResult::kOk);
  }
  Status CheckInputs(const std::vector<Tensor>& tensors) const override {
    return tensors[0].shape[1] == 13 ? InvalidArgument("13 columns") : OkStatus();
  }
  std::vector<std::string> Columns() const override { return {"loss"}; }

 private:
  struct Task {
    ScoreGroupPtr group;
    std::function<void(ScoreGroupPtr)> done;
  };
  void Run() {
    Task task;
    std::minstd_rand rng(5);
    while (queue_.Pop(&task, MonoTime::max()) == QueueResult::kOk) {
      for (const auto& batch : task.group->batches) {
        batch->scores.names = {"loss"};
        batch->scores.columns = {
            {batch->candidates.sample_id.begin(), batch->candidates.sample_id.end()}};
        for (unsigned spin = rng() % 2000; spin > 0; --spin)
          std::atomic_signal_fence(std::memory_order_seq_cst);
      }
      task.done(std::move(task.group));
      task = {};
    }
  }

  BoundedQueue<Task> queue_{100'000};
  Thread thread_;
};

class Collector : public DecidedPort {
 public:
  void Decided(ScoredBatchPtr batch) override {
    const std::lock_guard lock(mu_);
    ++count_[batch->candidates.key.seq];
    order_.push_back(std::move(batch));
    changed_.notify_all();
  }
  void WaitFor(std::size_t n) {
    std::unique_lock lock(mu_);
    ASSERT_TRUE(
        changed_.wait_for(lock, std::chrono::seconds(30), [&] { return order_.size() >= n; }))
        << order_.size() << " of " << n;
  }
  std::vector<ScoredBatchPtr> order() {
    const std::lock_guard lock(mu_);
    return order_;
  }
  std::map<std::uint64_t, int> count() {
    const std::lock_guard lock(mu_);
    return count_;
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<ScoredBatchPtr> order_;
  std::map<std::uint64_t, int> count_;
};

// Keeps the rows with an even id.
void KeepEven(ScoredBatch& batch) {
  const auto rows = static_cast<std::uint32_t>(batch.candidates.sample_id.size());
  if (batch.decision.outcome == Outcome::kRejected) return;
  if (batch.pass_through) {
    batch.decision = UnsiftedDecision(rows);
    return;
  }
  batch.decision.outcome = Outcome::kDecided;
  batch.decision.rows = rows;
  for (std::uint32_t i = 0; i < rows; ++i) {
    if (static_cast<std::uint64_t>(batch.scores.columns[0][i]) % 2 == 0)
      batch.decision.kept.push_back(i);
  }
}

SiftGraphOptions Options(int inflight = 16) {
  SiftGraphOptions options;
  options.batcher.max_rows = 16;
  options.max_inflight = inflight;
  options.threads = 2;
  return options;
}

TEST(SiftGraph, EveryBatchComesBackOnceAndInOrder) {
  constexpr std::uint64_t kBatches = 5000;
  FakeScorer scorer;
  Collector collector;
  SiftGraph graph(Options(), &scorer, KeepEven, &collector);
  for (std::uint64_t i = 0; i < kBatches; ++i) graph.Submit(MakeBatch(i));
  collector.WaitFor(kBatches);
  const auto order = collector.order();
  ASSERT_EQ(order.size(), kBatches);
  for (std::uint64_t i = 0; i < kBatches; ++i) {
    const ScoredBatch& b = *order[i];
    ASSERT_EQ(b.candidates.key.seq, i);
    ASSERT_EQ(b.kept_ids, (std::vector<std::uint64_t>{i * 1000, i * 1000 + 2}));
    // Rows 0 and 2 of [4, 2] bytes that count up from i.
    const auto at = [&](int k) {
      return static_cast<std::uint8_t>(i + static_cast<std::uint64_t>(k));
    };
    ASSERT_THAT(b.kept_tensors.at(0).bytes.bytes(),
                testing::ElementsAre(at(0), at(1), at(4), at(5)));
    ASSERT_TRUE(b.candidates.tensors.empty());
  }
  EXPECT_EQ(graph.inflight(), 0u);
  for (const StageStatus& stage : graph.Stages()) {
    EXPECT_EQ(stage.batches, kBatches) << stage.stage;
    EXPECT_EQ(stage.queued, 0u) << stage.stage;
  }
}

TEST(SiftGraph, BadInputsAreRejectedAndDisturbNobody) {
  FakeScorer scorer;
  Collector collector;
  SiftGraph graph(Options(), &scorer, KeepEven, &collector);
  for (std::uint64_t i = 0; i < 30; ++i) graph.Submit(MakeBatch(i, 4, i % 3 == 0 ? 13 : 2));
  collector.WaitFor(30);
  for (const auto& b : collector.order()) {
    const bool bad = b->candidates.key.seq % 3 == 0;
    EXPECT_EQ(b->decision.outcome, bad ? Outcome::kRejected : Outcome::kDecided);
    if (bad) {
      EXPECT_EQ(b->decision.code, ErrorCode::kBadTensor);
    }
  }
}

TEST(SiftGraph, PassThroughIsNotScored) {
  FakeScorer scorer;
  Collector collector;
  SiftGraph graph(Options(), &scorer, KeepEven, &collector);
  auto batch = MakeBatch(1);
  batch->pass_through = true;
  graph.Submit(batch);
  collector.WaitFor(1);
  EXPECT_EQ(batch->decision.outcome, Outcome::kUnsifted);
  EXPECT_EQ(batch->kept_ids.size(), 4u);
  EXPECT_TRUE(batch->scores.columns.empty());
}

TEST(SiftGraph, ABatchWithAllPriorScoresNeverGoesToTheModel) {
  FakeScorer scorer;
  Collector collector;
  const auto select = [](ScoredBatch& b) { b.decision = UnsiftedDecision(4); };
  SiftGraph graph(Options(), &scorer, select, &collector);
  auto known = MakeBatch(1);
  known->candidates.prior_score = {1, 2, 3, 4};
  auto partly = MakeBatch(2);
  partly->candidates.prior_score = {1, NAN, 3, 4};
  graph.Submit(known);
  graph.Submit(partly);
  collector.WaitFor(2);
  EXPECT_TRUE(known->scores.columns.empty());
  EXPECT_THAT(known->scores.names, testing::ElementsAre("loss"));
  EXPECT_EQ(partly->scores.columns.size(), 1u);
}

TEST(SiftGraph, AThrowingSelectRejectsThatBatchAlone) {
  FakeScorer scorer;
  Collector collector;
  const auto select = [](ScoredBatch& b) {
    if (b.candidates.key.seq == 3) throw std::runtime_error("no");
    KeepEven(b);
  };
  SiftGraph graph(Options(), &scorer, select, &collector);
  for (std::uint64_t i = 0; i < 10; ++i) graph.Submit(MakeBatch(i));
  collector.WaitFor(10);
  for (const auto& b : collector.order()) {
    EXPECT_EQ(b->decision.outcome,
              b->candidates.key.seq == 3 ? Outcome::kRejected : Outcome::kDecided);
  }
}

TEST(SiftGraph, CloseAnswersEverythingPending) {
  FakeScorer scorer;
  Collector collector;
  {
    SiftGraph graph(Options(4), &scorer, KeepEven, &collector);
    for (std::uint64_t i = 0; i < 500; ++i) graph.Submit(MakeBatch(i));
    graph.Close();
    graph.Submit(MakeBatch(500));
  }
  const auto count = collector.count();
  ASSERT_EQ(count.size(), 501u);
  for (const auto& [seq, n] : count) EXPECT_EQ(n, 1) << seq;
  EXPECT_EQ(collector.order().back()->decision.code, ErrorCode::kDraining);
}

TEST(SiftGraph, RunInSelectNeverRunsBesideSelect) {
  FakeScorer scorer;
  Collector collector;
  std::atomic<int> inside{0};
  std::atomic<int> ran{0};
  std::atomic<bool> overlapped{false};
  const auto alone = [&] {
    if (inside.fetch_add(1) != 0) overlapped = true;
    inside.fetch_sub(1);
  };
  {
    SiftGraph graph(
        Options(), &scorer, [&](ScoredBatch& b) { alone(), KeepEven(b); }, &collector);
    for (std::uint64_t i = 0; i < 1000; ++i) {
      graph.Submit(MakeBatch(i));
      graph.RunInSelect([&] { alone(), ++ran; });
    }
    collector.WaitFor(1000);
  }
  EXPECT_FALSE(overlapped);
  EXPECT_EQ(ran, 1000);
}

TEST(SiftGraphOptions, RefusalsNameFieldAndRange) {
  SiftGraphOptions options;
  options.max_inflight = 0;
  EXPECT_EQ(options.Validate().message(), "max_inflight is 0; allowed: [1, 65536]");
}

}  // namespace
}  // namespace siftd
