// SPDX-License-Identifier: Apache-2.0
// Heap allocations of a message's way between frames and our values, protobuf's own included.
#include <benchmark/benchmark.h>

#include <vector>

#include "pipeline/wire/codec.h"
#include "tests/bench/count_allocations.h"

namespace siftd {
namespace {

constexpr std::uint32_t kRows = 128;

std::vector<Tensor> MakeTensors(std::int64_t rows) {
  const auto bytes = [&](std::size_t size) {
    return Frame::Adopt(std::vector<std::uint8_t>(static_cast<std::size_t>(rows) * size));
  };
  return {{"0", DType::kUInt8, {rows, 3, 32, 32}, bytes(3 * 32 * 32)},
          {"1", DType::kInt64, {rows}, bytes(8)}};
}

Candidates MakeCandidates() {
  Candidates m;
  m.run = 2;
  m.sample_id.resize(kRows);
  m.tensors = MakeTensors(kRows);
  return m;
}

Decision MakeDecision() {
  Decision d;
  d.outcome = Outcome::kDecided;
  d.rows = kRows;
  for (std::uint32_t row = 0; row < kRows; row += 2) d.kept.push_back(row);
  d.score.resize(kRows);
  d.keep_probability.resize(kRows);
  d.weight.resize(d.kept.size());
  d.percentile.resize(kRows);
  d.column = "loss";
  return d;
}

Verdict MakeVerdict() {
  Verdict m;
  m.decision = MakeDecision();
  return m;
}

Selected MakeSelected() {
  Selected m;
  m.decision = MakeDecision();
  m.sample_id.resize(m.decision.kept.size());
  m.tensors = MakeTensors(static_cast<std::int64_t>(m.sample_id.size()));
  return m;
}

// The second time: what is used again has its size by then.
template <typename Body>
void Report(benchmark::State& state, Body body) {
  body();
  const std::uint64_t before = Allocations();
  body();
  const std::uint64_t made = Allocations() - before;
  for (auto unused : state) benchmark::DoNotOptimize(made);
  state.counters["allocations"] = static_cast<double>(made);
}

void ReportDecode(benchmark::State& state, const Message& message) {
  const Frames frames = Encode(message);
  Report(state, [&] { benchmark::DoNotOptimize(Decode(frames)); });
}

void ReportEncode(benchmark::State& state, const Message& message) {
  Frames frames;
  Report(state, [&] { Encode(message, &frames); });
}

void WireDecodeCandidates(benchmark::State& s) { ReportDecode(s, MakeCandidates()); }
void WireEncodeVerdict(benchmark::State& s) { ReportEncode(s, MakeVerdict()); }
void WireEncodeSelected(benchmark::State& s) { ReportEncode(s, MakeSelected()); }
BENCHMARK(WireDecodeCandidates)->Iterations(1);
BENCHMARK(WireEncodeVerdict)->Iterations(1);
BENCHMARK(WireEncodeSelected)->Iterations(1);

}  // namespace
}  // namespace siftd
