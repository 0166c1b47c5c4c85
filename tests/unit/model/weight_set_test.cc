// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/weight_set.h"

#include <gtest/gtest.h>

#include "tests/unit/model/fixture.h"

namespace siftd {
namespace {

WeightSet* Make(WeightSet* set) {
  set->state.emplace("w", at::zeros({kWidth}));
  set->state.emplace("half", at::zeros({2, 1}, at::kBFloat16));  // of a scorer that computes so
  set->state.emplace("count", at::zeros({}, at::kLong));
  return set;
}

WeightsVersion Version() {
  WeightsVersion version;
  const std::int64_t count = 7;
  version.tensors = {Floats("w", {kWidth}, {1, 2, 3}),
                     Floats("half", {2, 1}, {0.5F, -4}),
                     {"count", DType::kInt64, {}, Frame::Copy(&count, sizeof(count))}};
  return version;
}

void ExpectWritten(const WeightSet& set) {
  EXPECT_TRUE(set.state.at("w").equal(at::arange(1, 4, at::kFloat)));
  EXPECT_EQ(set.state.at("half")[0].item<float>(), 0.5F);
  EXPECT_EQ(set.state.at("half")[1].item<float>(), -4.0F);
  EXPECT_EQ(set.state.at("count").item<std::int64_t>(), 7);
}

class WeightSetTest : public testing::Test {
 protected:
  DeviceStream none_{at::kCPU, DeviceStream::Priority::kNormal};
};

TEST_F(WeightSetTest, AVersionIsCastToWhatTheSetHolds) {
  WeightSet set;
  WriteWeights(Version(), at::kCPU, &none_, Make(&set));
  ExpectWritten(set);
}

// The way onto a device, taken on the CPU.
TEST_F(WeightSetTest, OneTransferWritesTheSame) {
  WeightSet set;
  WriteWeightsFlat(Version(), at::kCPU, &none_, Make(&set));
  none_.Wait();
  ExpectWritten(set);
}

TEST_F(WeightSetTest, AllOfOneSetGoesIntoTheOther) {
  WeightSet from;
  WeightSet to;
  WriteWeights(Version(), at::kCPU, &none_, Make(&from));
  CopyWeights(from, &none_, Make(&to));
  ExpectWritten(to);
}

}  // namespace
}  // namespace siftd
