// SPDX-License-Identifier: Apache-2.0
// Encoding and decoding of a Candidates message, by the bytes of its tensor; payload is not copied.
#include <benchmark/benchmark.h>

#include "pipeline/wire/codec.h"

namespace siftd {
namespace {

Message MakeCandidates(std::int64_t bytes) {
  constexpr std::int64_t kRows = 128;
  Candidates batch;
  batch.session = {1, 1};
  batch.run = 2;
  batch.sample_id.resize(kRows);
  batch.tensors.push_back(
      {"x",
       DType::kUInt8,
       {kRows, bytes / kRows},
       Frame::Adopt(std::vector<std::uint8_t>(static_cast<std::size_t>(bytes)))});
  return batch;
}

void EncodeCandidates(benchmark::State& state) {
  const Message message = MakeCandidates(state.range(0));
  for (auto unused : state) benchmark::DoNotOptimize(Encode(message));
}

void DecodeCandidates(benchmark::State& state) {
  const Frames frames = Encode(MakeCandidates(state.range(0)));
  for (auto unused : state) benchmark::DoNotOptimize(Decode(frames));
}
BENCHMARK(EncodeCandidates)->Arg(64 << 10)->Arg(1 << 20)->Arg(8 << 20);
BENCHMARK(DecodeCandidates)->Arg(64 << 10)->Arg(1 << 20)->Arg(8 << 20);

}  // namespace
}  // namespace siftd
