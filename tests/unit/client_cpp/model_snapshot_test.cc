// SPDX-License-Identifier: Apache-2.0
#include "siftd/model_snapshot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "pipeline/wire/digest.h"

namespace siftd {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Tensor Bytes(std::string name, std::vector<std::uint8_t> bytes) {
  const auto n = static_cast<std::int64_t>(bytes.size());
  return {std::move(name), DType::kUInt8, {n}, Frame::Adopt(std::move(bytes))};
}

TEST(CopyWeights, LaysEntriesBackToBackInMemoryOfItsOwn) {
  std::vector<std::uint8_t> changing = {1, 2, 3};
  const Tensor view{"a", DType::kUInt8, {3}, Frame(nullptr, changing.data(), changing.size())};
  auto snapshot = CopyWeights({view, Bytes("b", {9})});
  ASSERT_TRUE(snapshot.ok());
  changing = {0, 0, 0};
  EXPECT_THAT(snapshot->bytes.bytes(), ElementsAre(1, 2, 3, 9));
  ASSERT_EQ(snapshot->begin.manifest.size(), 2u);
  EXPECT_EQ(snapshot->begin.manifest[1].name, "b");
}

TEST(CopyWeights, RefusesWhatHasNoNameOrDoesNotFitItsShape) {
  EXPECT_THAT(CopyWeights({Bytes("", {1})}).status().message(), HasSubstr("without a name"));
  Tensor wrong = Bytes("w", {1, 2});
  wrong.shape = {3};
  EXPECT_FALSE(CopyWeights({wrong}).ok());
}

TEST(Seal, EveryChunkHasItsChecksumAndTheWholeItsDigest) {
  std::vector<std::uint8_t> bytes(10);
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{0});
  auto snapshot = CopyWeights({Bytes("w", bytes)});
  ASSERT_TRUE(snapshot.ok());
  Seal(4, &*snapshot);
  EXPECT_EQ(snapshot->begin.chunks, 3u);
  EXPECT_EQ(snapshot->begin.total_bytes, 10u);
  EXPECT_THAT(snapshot->crc32,
              ElementsAre(Crc32(std::span(bytes).first(4)), Crc32(std::span(bytes).subspan(4, 4)),
                          Crc32(std::span(bytes).last(2))));
  EXPECT_EQ(snapshot->begin.sha256, Sha256(bytes));
}

}  // namespace
}  // namespace siftd
