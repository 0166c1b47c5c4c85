// SPDX-License-Identifier: Apache-2.0
#include "siftd/torch_bridge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siftd {
namespace {

using testing::HasSubstr;

TEST(TorchBridge, TensorsGoThereAndBackUnchanged) {
  for (const at::ScalarType type :
       {at::kBool, at::kByte, at::kLong, at::kHalf, at::kBFloat16, at::kFloat, at::kDouble}) {
    const at::Tensor sent = at::arange(12).reshape({3, 4}).to(type).t();  // not contiguous
    const auto there = FromTorch(sent, "x");
    ASSERT_TRUE(there.ok());
    EXPECT_EQ(there->shape, (std::vector<std::int64_t>{4, 3}));
    const at::Tensor back = ToTorch(*there);
    EXPECT_EQ(back.scalar_type(), type);
    EXPECT_TRUE(at::equal(back, sent)) << sent;
  }
}

TEST(TorchBridge, FromTorchCopiesSoThatTrainingMayGoOn) {
  at::Tensor weight = at::ones({2});
  const auto copy = FromTorch(weight, "w");
  ASSERT_TRUE(copy.ok());
  weight.zero_();
  EXPECT_TRUE(at::equal(ToTorch(*copy), at::ones({2})));
}

TEST(TorchBridge, ToTorchKeepsSharedMemoryAlive) {
  at::Tensor view;
  {
    const auto tensor = FromTorch(at::full({1000}, 3.0f), "x");
    ASSERT_TRUE(tensor.ok());
    view = ToTorch(*tensor);
    EXPECT_EQ(view.const_data_ptr(), static_cast<const void*>(tensor->bytes.data()));
  }
  EXPECT_TRUE(at::equal(view, at::full({1000}, 3.0f)));
}

TEST(TorchBridge, UnalignedBytesAreCopied) {
  const std::vector<std::uint8_t> bytes(9, 0);
  const auto whole = Frame::Adopt(std::vector<std::uint8_t>(bytes));
  const std::size_t off = reinterpret_cast<std::uintptr_t>(whole.data()) % 4 == 0 ? 1 : 0;
  const Tensor tensor{"x", DType::kFloat32, {2}, Frame(whole.owner(), whole.data() + off, 8)};
  EXPECT_TRUE(at::equal(ToTorch(tensor), at::zeros({2})));
}

TEST(TorchBridge, UnknownTypesAreRefusedByName) {
  EXPECT_THAT(FromTorch(at::zeros({1}, at::kComplexFloat), "z").status().message(),
              HasSubstr("'z' has dtype ComplexFloat"));
}

ArtifactManifest Manifest() {
  ArtifactManifest manifest;
  manifest.state = {{"fc.weight", "model.fc.weight", DType::kFloat32, {2, 3}, false},
                    {"fc.bias", "model.fc.bias", DType::kFloat32, {2}, false}};
  return manifest;
}

TEST(NamedWeights, FollowTheManifestsOrderAndRenames) {
  const auto weights =
      NamedWeights(Manifest(), {{"linear.b", at::zeros({2})}, {"fc.weight", at::ones({2, 3})}},
                   {{"fc.bias", "linear.b"}});
  ASSERT_TRUE(weights.ok()) << weights.status().ToString();
  ASSERT_EQ(weights->size(), 2u);
  EXPECT_EQ((*weights)[0].name, "fc.weight");
  EXPECT_EQ((*weights)[1].name, "fc.bias");
}

TEST(NamedWeights, ErrorsNameTheEntry) {
  EXPECT_THAT(NamedWeights(Manifest(), {{"fc.weight", at::ones({2, 3})}}).status().message(),
              HasSubstr("has no 'fc.bias'; the scorer takes fc.bias float32 [2]"));
  EXPECT_THAT(NamedWeights(Manifest(), {{"fc.weight", at::ones({3, 2})}}).status().message(),
              HasSubstr("fc.weight float32 [3, 2]; the scorer takes fc.weight float32 [2, 3]"));
  EXPECT_THAT(
      NamedWeights(Manifest(), {{"fc.weight", at::ones({2, 3}, at::kDouble)}}).status().message(),
      HasSubstr("float64"));
}

}  // namespace
}  // namespace siftd
