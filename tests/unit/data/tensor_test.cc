// SPDX-License-Identifier: Apache-2.0
#include "pipeline/data/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>

namespace siftd {
namespace {

using testing::HasSubstr;

Tensor Bytes(std::vector<std::int64_t> shape, std::size_t bytes) {
  std::vector<std::uint8_t> data(bytes);
  std::iota(data.begin(), data.end(), std::uint8_t{0});
  return {"x", DType::kUInt8, std::move(shape), Frame::Adopt(std::move(data))};
}

TEST(CheckedBytes, MultipliesSizes) { EXPECT_EQ(*CheckedBytes(DType::kFloat32, {2, 3}), 24u); }

TEST(CheckedBytes, ScalarIsOneElement) { EXPECT_EQ(*CheckedBytes(DType::kFloat64, {}), 8u); }

TEST(CheckedBytes, ZeroSizeIsZeroBytes) { EXPECT_EQ(*CheckedBytes(DType::kFloat32, {0, 5}), 0u); }

TEST(CheckedBytes, RefusesNegativeSizes) {
  EXPECT_THAT(CheckedBytes(DType::kFloat32, {2, -1}).status().message(), HasSubstr("[2, -1]"));
}

TEST(CheckedBytes, RefusesOverflow) {
  const std::int64_t big = std::numeric_limits<std::int64_t>::max();
  EXPECT_THAT(CheckedBytes(DType::kFloat32, {big, big}).status().message(), HasSubstr("overflows"));
}

TEST(CheckedBytes, RefusesUnknownDType) {
  EXPECT_FALSE(CheckedBytes(static_cast<DType>(99), {1}).ok());
}

TEST(ValidateTensor, FrameMustHaveTheSizeThatTheShapeSays) {
  EXPECT_TRUE(Validate(Bytes({2, 3}, 6)).ok());
  EXPECT_THAT(Validate(Bytes({2, 3}, 5)).message(), HasSubstr("needs 6 bytes; its frame has 5"));
}

TEST(Matches, ComparesFixedSizesOnly) {
  const Tensor x = Bytes({2, 3}, 6);
  EXPECT_TRUE(Matches(x, {"a", DType::kUInt8, {-1, 3}}).ok());
  EXPECT_TRUE(Matches(x, {"a", DType::kUInt8, {-1, -1}}).ok());
  EXPECT_FALSE(Matches(x, {"a", DType::kUInt8, {-1, 4}}).ok());
  EXPECT_FALSE(Matches(x, {"a", DType::kUInt8, {-1}}).ok());
  EXPECT_THAT(Matches(x, {"a", DType::kInt8, {-1, 3}}).message(),
              HasSubstr("the model takes a int8 [-1, 3]"));
}

TEST(GatherRows, CopiesTheRowsInOrder) {
  const Tensor out = GatherRows(Bytes({4, 2}, 8), {0, 2, 3});
  EXPECT_EQ(out.shape, (std::vector<std::int64_t>{3, 2}));
  EXPECT_THAT(std::vector<std::uint8_t>(out.bytes.data(), out.bytes.data() + out.bytes.size()),
              testing::ElementsAre(0, 1, 4, 5, 6, 7));
}

TEST(GatherRows, NoRowsAndEmptyRows) {
  EXPECT_EQ(GatherRows(Bytes({4, 2}, 8), {}).bytes.size(), 0u);
  EXPECT_EQ(GatherRows(Bytes({4, 0}, 0), {1, 2}).bytes.size(), 0u);
}

}  // namespace
}  // namespace siftd
