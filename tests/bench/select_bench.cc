// SPDX-License-Identifier: Apache-2.0
// Time per row of each policy, for loss_cdf by the length of its history, and heap allocations per
// batch, whose buffers are used again and again.
#include <benchmark/benchmark.h>

#include <numeric>
#include <random>

#include "pipeline/select/selector.h"
#include "tests/bench/count_allocations.h"

namespace siftd {
namespace {

constexpr std::uint32_t kRows = 512;

void BenchSelect(benchmark::State& state, const PolicyOptions& policy, std::size_t history) {
  std::mt19937 rng(1);
  std::lognormal_distribution<float> losses;
  std::uniform_real_distribution<float> unit;
  ScoredBatch batch;
  batch.candidates.run = 1;
  batch.candidates.sample_id.resize(kRows);
  JobSpec job;
  job.policy = policy;
  batch.job = std::make_shared<const JobSpec>(job);
  batch.scores.names = {"loss", "confidence"};
  batch.scores.columns.assign(2, std::vector<float>(kRows));
  Selector selector;
  std::vector<float> sample(history);
  for (float& loss : sample) loss = losses(rng);
  selector.SeedHistory(1, 1, sample);
  std::uint64_t id = 0;
  const auto refill = [&] {
    for (float& loss : batch.scores.columns[0]) loss = losses(rng);
    for (float& p : batch.scores.columns[1]) p = unit(rng);
    for (std::uint64_t& i : batch.candidates.sample_id) i = id++;
  };
  for (int i = 0; i < 200; ++i) {  // takes the seed in; buffers grow to their size
    refill();
    selector.Select(batch);
  }
  std::uint64_t allocations = 0;
  for (auto unused : state) {
    state.PauseTiming();
    refill();
    const std::uint64_t before = Allocations();
    state.ResumeTiming();
    selector.Select(batch);
    benchmark::DoNotOptimize(batch.decision);
    state.PauseTiming();
    allocations += Allocations() - before;
    state.ResumeTiming();
  }
  state.counters["allocations"] =
      static_cast<double>(allocations) / static_cast<double>(state.iterations());
  state.SetItemsProcessed(state.iterations() * kRows);
}

PolicyOptions Make(auto kind) {
  PolicyOptions policy;
  policy.kind = kind;
  return policy;
}

void Uniform(benchmark::State& s) { BenchSelect(s, Make(UniformOptions{}), 0); }
void Confidence(benchmark::State& s) { BenchSelect(s, Make(ConfidenceOptions{}), 0); }
void ComposerRank(benchmark::State& s) { BenchSelect(s, Make(ComposerRankOptions{}), 0); }
void TopK(benchmark::State& s) { BenchSelect(s, Make(TopKOptions{}), 0); }
void LossCdf(benchmark::State& s) {
  LossCdfOptions options;
  options.loss_history_length = static_cast<std::uint32_t>(s.range(0));
  BenchSelect(s, Make(options), static_cast<std::size_t>(s.range(0)));
}
BENCHMARK(Uniform);
BENCHMARK(Confidence);
BENCHMARK(ComposerRank);
BENCHMARK(TopK);
BENCHMARK(LossCdf)->Arg(500)->Arg(10'000)->Arg(1'000'000);

}  // namespace
}  // namespace siftd
