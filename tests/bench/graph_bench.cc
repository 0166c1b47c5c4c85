// SPDX-License-Identifier: Apache-2.0
// What the flow graph costs beside the forward: time of a batch through it and heap allocations on
// its way, with a scorer that answers at once. The batches are used again and again, as are those
// of a worker whose messages had no cost.
#include <benchmark/benchmark.h>

#include <atomic>
#include <memory>
#include <vector>

#include "pipeline/base/thread.h"
#include "pipeline/graph/sift_graph.h"
#include "pipeline/select/selector.h"
#include "tests/bench/count_allocations.h"

namespace siftd {
namespace {

class InstantScorer final : public ScorerPort {
 public:
  void Submit(ScoreGroupPtr group, std::function<void(ScoreGroupPtr)> done) override {
    done(std::move(group));
  }
  Status CheckInputs(const std::vector<Tensor>& /*tensors*/) const override { return OkStatus(); }
};

// Wakes its waiter once, when all that were submitted are decided: what waiting costs is not the
// graph's.
class CountingPort final : public DecidedPort {
 public:
  void Decided(ScoredBatchPtr batch) override {
    batch.reset();
    if (missing_.fetch_sub(1, std::memory_order_acq_rel) == 1) missing_.notify_one();
  }
  void Expect(std::int64_t batches) { missing_.store(batches, std::memory_order_release); }
  void Wait() {
    for (std::int64_t left = missing_.load(std::memory_order_acquire); left > 0;
         left = missing_.load(std::memory_order_acquire)) {
      missing_.wait(left, std::memory_order_acquire);
    }
  }

 private:
  std::atomic<std::int64_t> missing_{0};
};

constexpr std::size_t kRows = 128;

std::vector<ScoredBatchPtr> MakeBatches(std::size_t count, std::shared_ptr<const JobSpec> job) {
  std::vector<ScoredBatchPtr> batches;
  for (std::size_t i = 0; i < count; ++i) {
    auto batch = std::make_shared<ScoredBatch>();
    for (std::uint64_t row = 0; row < kRows; ++row)
      batch->candidates.sample_id.push_back(i * kRows + row);
    batch->candidates.run = 1;
    batch->candidates.key.seq = i;
    batch->job = job;
    batch->scores.names = {"loss", "confidence"};
    batch->scores.columns.assign(2, std::vector<float>(kRows, 0.5f));
    for (std::size_t row = 0; row < kRows; ++row)
      batch->scores.columns[0][row] = static_cast<float>(row * 7 % kRows);
    batches.push_back(std::move(batch));
  }
  return batches;
}

void Run(benchmark::State& state, SiftGraph::SelectFn select, const JobSpec& spec) {
  InstantScorer scorer;
  CountingPort port;
  SiftGraphOptions options;
  options.batcher.max_rows = 1;  // no batch waits for another
  SiftGraph graph(options, &scorer, std::move(select), &port);
  const auto window = static_cast<std::size_t>(state.range(0));
  const auto batches = MakeBatches(window, std::make_shared<const JobSpec>(spec));
  const auto turn = [&] {
    port.Expect(static_cast<std::int64_t>(window));
    for (const ScoredBatchPtr& batch : batches) {
      batch->admitted = Now();
      graph.Submit(batch);
    }
    port.Wait();
  };
  for (int i = 0; i < 100; ++i) turn();  // buffers grow to their size
  const std::uint64_t before = Allocations();
  for (auto unused : state) turn();
  const auto submitted = static_cast<double>(state.iterations()) * static_cast<double>(window);
  state.counters["allocations"] = static_cast<double>(Allocations() - before) / submitted;
  graph.Close();
  state.SetItemsProcessed(static_cast<std::int64_t>(submitted));
}

// range: batches submitted before the first is waited for.
void GraphBatch(benchmark::State& state) {
  Run(state, [](ScoredBatch&) {}, {});
}
BENCHMARK(GraphBatch)->Arg(1)->Arg(32)->UseRealTime();

// With the selection in it. The history holds 1024 losses.
void GraphSelect(benchmark::State& state) {
  JobSpec job;
  job.mode = Mode::kVerdicts;
  job.policy.kind = LossCdfOptions{};
  Selector selector;
  Run(
      state, [&](ScoredBatch& batch) { selector.Select(batch); }, job);
}
BENCHMARK(GraphSelect)->Arg(32)->UseRealTime();

}  // namespace
}  // namespace siftd
