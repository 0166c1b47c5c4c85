// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/input_stage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/model/jit_replica.h"
#include "pipeline/model/memory_reader.h"
#include "tests/unit/model/fixture.h"

namespace siftd {
namespace {

using testing::ElementsAre;

torch::jit::Module Module(const std::string& forward) {
  return torch::jit::load(std::make_shared<MemoryReader>(Archive(forward)), at::kCPU);
}

ScoredBatchPtr Batch(const std::vector<float>& values) {
  auto batch = std::make_shared<ScoredBatch>();
  const auto rows = static_cast<std::int64_t>(values.size()) / kWidth;
  batch->candidates.tensors.push_back(Floats("x", {rows, kWidth}, values));
  batch->candidates.sample_id.resize(static_cast<std::size_t>(rows));
  return batch;
}

std::vector<bool> ReadOnly(const std::string& forward) {
  return InputStage(Manifest(), Module(forward), at::kCPU).read_only();
}

constexpr const char* kReads = R"(
def forward(self, x):
    loss = (x.view(-1, 3) * self.w).sum(1)
    return loss, loss
)";
constexpr const char* kWrites = R"(
def forward(self, x):
    x.add_(1)
    loss = (x * self.w).sum(1)
    return loss, loss
)";
constexpr const char* kWritesToAView = R"(
def forward(self, x):
    y = x[:, 0]
    y.zero_()
    return y, y
)";

TEST(InputStage, FindsTheInputsThatAreWrittenTo) {
  EXPECT_THAT(ReadOnly(kReads), ElementsAre(true));
  EXPECT_THAT(ReadOnly(kWrites), ElementsAre(false));
  EXPECT_THAT(ReadOnly(kWritesToAView), ElementsAre(false));
}

TEST(InputStage, ABatchAloneIsReadWhereItLies) {
  const InputStage stage(Manifest(), Module(kReads), at::kCPU);
  DeviceStream none(at::kCPU, DeviceStream::Priority::kNormal);
  const ScoredBatchPtr batch = Batch({1, 2, 3});
  const auto staged = stage.Stage({batch}, &none);
  ASSERT_EQ(staged.size(), 1u);
  EXPECT_EQ(staged[0].data_ptr(), batch->candidates.tensors[0].bytes.data());
}

TEST(InputStage, BatchesAreJoinedInOrder) {
  const InputStage stage(Manifest(), Module(kReads), at::kCPU);
  DeviceStream none(at::kCPU, DeviceStream::Priority::kNormal);
  const auto staged = stage.Stage({Batch({1, 2, 3}), Batch({4, 5, 6, 7, 8, 9})}, &none);
  EXPECT_TRUE(staged[0].equal(at::arange(1, 10, at::kFloat).view({3, kWidth})));
}

// Kept rows are sent on from the candidates' own bytes.
TEST(InputStage, AScorerThatWritesToItsInputDoesNotChangeTheCandidates) {
  auto replica = JitReplica::Load(Archive(kWrites), Manifest(), {}, true);
  ASSERT_TRUE(replica.ok()) << replica.status().message();
  const ScoredBatchPtr batch = Batch({1, 2, 3});
  ASSERT_TRUE((*replica)->Score({batch}).ok());
  EXPECT_THAT(batch->scores.columns[0], ElementsAre(9.0F));
  float first = 0;
  std::memcpy(&first, batch->candidates.tensors[0].bytes.data(), sizeof(first));
  EXPECT_EQ(first, 1.0F);
}

}  // namespace
}  // namespace siftd
