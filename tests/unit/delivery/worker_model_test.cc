// SPDX-License-Identifier: Apache-2.0
// The worker's core and the model: what is in force after each kind of version.
#include <gtest/gtest.h>

#include <optional>

#include "pipeline/delivery/worker_core.h"

namespace siftd {
namespace {

class WorkerModel : public testing::Test {
 protected:
  WorkerModel() : core_(Options()) {
    Hello hello;
    hello.session = session_;
    hello.role = Role::kPublisher;
    hello.run = 1;
    core_.OnMessage(1, hello, now_);
    core_.TakeActions();
  }

  static WorkerCoreOptions Options() {
    WorkerCoreOptions options;
    options.artifact_upload = true;
    options.artifact_sha256 = "abc";
    return options;
  }

  // The ModelAck that refuses the Begin, if it does.
  std::optional<ModelAck> Begin(ModelKind kind, std::uint64_t version) {
    ModelBegin begin;
    begin.session = session_;
    begin.run = 1;
    begin.version = version;
    begin.kind = kind;
    core_.OnMessage(1, begin, now_);
    for (WorkerActions::Send& send : core_.TakeActions().sends) {
      if (const auto* ack = std::get_if<ModelAck>(&send.message)) return *ack;
    }
    return std::nullopt;
  }

  void Apply(ModelKind kind, std::uint64_t version) {
    ASSERT_FALSE(Begin(kind, version).has_value());
    core_.OnModelAck(ModelAck{session_, 1, version, ModelState::kApplied}, 10 * version, "abc",
                     now_);
    core_.TakeActions();
  }

  const SessionId session_{7, 1};
  const MonoTime now_{};
  WorkerCore core_;
};

TEST_F(WorkerModel, AFullVersionIsInForceAndDeltasFollowIt) {
  EXPECT_EQ(Begin(ModelKind::kDelta, 1)->state, ModelState::kRefused);
  Apply(ModelKind::kFull, 1);
  EXPECT_TRUE(core_.Snapshot(now_).ready);
  Apply(ModelKind::kDelta, 3);
  EXPECT_EQ(core_.Snapshot(now_).model_version, 3u);
  EXPECT_EQ(core_.Snapshot(now_).model_step, 30u);
}

// Bug: the archive's own weights were scored with, stamped as the version before.
TEST_F(WorkerModel, AnArtifactInMidRunWaitsForItsFullVersion) {
  Apply(ModelKind::kFull, 5);
  Apply(ModelKind::kArtifact, 0);
  EXPECT_FALSE(core_.Snapshot(now_).ready);
  EXPECT_EQ(core_.Snapshot(now_).model_version, 0u);
  EXPECT_EQ(Begin(ModelKind::kDelta, 6)->state, ModelState::kRefused);
  Apply(ModelKind::kFull, 5);
  EXPECT_TRUE(core_.Snapshot(now_).ready);
}

}  // namespace
}  // namespace siftd
