// SPDX-License-Identifier: Apache-2.0
// Time of a batch through the whole flow graph, with a scorer that answers at once: what the graph
// costs beside the forward.
#include <benchmark/benchmark.h>

#include <atomic>
#include <memory>

#include "pipeline/base/bounded_queue.h"
#include "pipeline/base/thread.h"
#include "pipeline/graph/sift_graph.h"

namespace siftd {
namespace {

class InstantScorer final : public ScorerPort {
 public:
  void Submit(ScoreGroupPtr group, std::function<void(ScoreGroupPtr)> done) override {
    done(std::move(group));
  }
  Status CheckInputs(const std::vector<Tensor>& /*tensors*/) const override { return OkStatus(); }
};

class CountingPort final : public DecidedPort {
 public:
  void Decided(ScoredBatchPtr /*batch*/) override {
    decided.fetch_add(1, std::memory_order_release);
    decided.notify_one();
  }
  std::atomic<std::uint64_t> decided{0};
};

// range: batches submitted before the first is waited for.
void GraphBatch(benchmark::State& state) {
  InstantScorer scorer;
  CountingPort port;
  SiftGraphOptions options;
  options.batcher.max_rows = 1;  // no batch waits for another
  SiftGraph graph(
      options, &scorer, [](ScoredBatch&) {}, &port);
  const auto job = std::make_shared<const JobSpec>();
  const auto window = static_cast<std::uint64_t>(state.range(0));
  std::uint64_t submitted = 0;
  for (auto unused : state) {
    for (std::uint64_t i = 0; i < window; ++i) {
      auto batch = std::make_shared<ScoredBatch>();
      batch->candidates.sample_id = {submitted};
      batch->candidates.key.seq = submitted;
      batch->candidates.tensors.push_back({"x", DType::kUInt8, {1, 1}, Frame::Copy("x", 1)});
      batch->job = job;
      batch->admitted = Now();
      graph.Submit(std::move(batch));
      ++submitted;
    }
    for (std::uint64_t seen = port.decided.load(std::memory_order_acquire); seen < submitted;
         seen = port.decided.load(std::memory_order_acquire)) {
      port.decided.wait(seen, std::memory_order_acquire);
    }
  }
  graph.Close();
  state.SetItemsProcessed(static_cast<std::int64_t>(submitted));
}
BENCHMARK(GraphBatch)->Arg(1)->Arg(32)->UseRealTime();

}  // namespace
}  // namespace siftd
