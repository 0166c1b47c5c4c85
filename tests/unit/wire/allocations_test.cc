// SPDX-License-Identifier: Apache-2.0
// In steady state a header costs no memory, and a decoded message only what it is made of.
#include <gtest/gtest.h>

#include "pipeline/wire/codec.h"
#include "tests/bench/count_allocations.h"

namespace siftd {
namespace {

constexpr std::int64_t kRows = 128;

std::vector<Tensor> TwoTensors() {
  const auto bytes = [](std::int64_t size) {
    return Frame::Adopt(std::vector<std::uint8_t>(static_cast<std::size_t>(size)));
  };
  return {{"x", DType::kUInt8, {kRows, 3, 8, 8}, bytes(kRows * 3 * 8 * 8)},
          {"y", DType::kInt64, {kRows}, bytes(kRows * 8)}};
}

Decision WholeDecision() {
  Decision d = UnsiftedDecision(kRows);
  d.score.resize(kRows);
  d.keep_probability.resize(kRows);
  d.weight.resize(kRows);
  d.percentile.resize(kRows);
  d.column = "loss";
  return d;
}

// Of the second call.
template <typename Body>
std::uint64_t Count(Body body) {
  body();
  const std::uint64_t before = Allocations();
  body();
  return Allocations() - before;
}

TEST(WireAllocations, DecodedCandidatesOwnIdsTensorsAndTheirShapes) {
  Candidates m;
  m.sample_id.resize(kRows);
  m.tensors = TwoTensors();
  const Frames frames = Encode(m);
  EXPECT_EQ(Count([&] { EXPECT_TRUE(Decode(frames).ok()); }), 4u);
}

TEST(WireAllocations, EncodingIntoUsedFramesTakesNone) {
  Selected selected;
  selected.decision = WholeDecision();
  selected.sample_id.resize(kRows);
  selected.tensors = TwoTensors();
  Verdict verdict;
  verdict.decision = WholeDecision();
  Frames frames;
  for (const Message& message : {Message(selected), Message(verdict), Message(Credit{{}, 3, 4})}) {
    EXPECT_EQ(Count([&] { Encode(message, &frames); }), 0u) << MessageName(message);
  }
}

}  // namespace
}  // namespace siftd
