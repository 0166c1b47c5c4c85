// SPDX-License-Identifier: Apache-2.0
// Heap allocations of a message's way between frames and our values, and of those the ones that
// protobuf makes for its own message.
#include <benchmark/benchmark.h>

#include <string>
#include <utility>

#include "pipeline/wire/codec.h"
#include "pipeline/wire/message_codec.h"
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

template <typename Body>
double Count(Body body) {
  body();
  const std::uint64_t before = Allocations();
  body();
  return static_cast<double>(Allocations() - before);
}

void Report(benchmark::State& state, double all, double protobuf) {
  for (auto unused : state) benchmark::DoNotOptimize(all);
  state.counters["allocations"] = all;
  state.counters["protobuf"] = protobuf;
}

template <typename Proto>
void ReportDecode(benchmark::State& state, const Message& message) {
  const Frames frames = Encode(message);
  const double all = Count([&] { benchmark::DoNotOptimize(Decode(frames)); });
  const double protobuf = Count([&] {
    Proto proto;
    benchmark::DoNotOptimize(
        proto.ParseFromArray(frames[1].data(), static_cast<int>(frames[1].size())));
  });
  Report(state, all, protobuf);
}

template <typename Proto, typename M>
void ReportEncode(benchmark::State& state, const M& value) {
  const Message message = value;
  const double all = Count([&] { benchmark::DoNotOptimize(Encode(message)); });
  Frames frames(2);
  frames.reserve(16);
  const double protobuf = Count([&] {
    frames.resize(2);
    Proto proto;
    wire::To(value, &proto, &frames);
    benchmark::DoNotOptimize(proto.SerializeAsString());
  });
  Report(state, all, protobuf);
}

void WireDecodeCandidates(benchmark::State& s) {
  ReportDecode<v1::Candidates>(s, MakeCandidates());
}
void WireEncodeVerdict(benchmark::State& s) { ReportEncode<v1::Verdict>(s, MakeVerdict()); }
void WireEncodeSelected(benchmark::State& s) { ReportEncode<v1::Selected>(s, MakeSelected()); }
BENCHMARK(WireDecodeCandidates)->Iterations(1);
BENCHMARK(WireEncodeVerdict)->Iterations(1);
BENCHMARK(WireEncodeSelected)->Iterations(1);

}  // namespace
}  // namespace siftd
