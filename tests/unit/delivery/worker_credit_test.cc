// SPDX-License-Identifier: Apache-2.0
// The worker's core grants its loaders credit in steps, and never so late that a lane runs dry.
#include <gtest/gtest.h>

#include <deque>
#include <optional>
#include <utility>

#include "pipeline/delivery/worker_core.h"

namespace siftd {
namespace {

constexpr PeerHandle kPublisher = 1;
constexpr PeerHandle kLoader = 2;

// Mode VERDICTS: a batch leaves the lane with its verdict.
class WorkerCredit : public testing::Test {
 protected:
  // The credit that an idle worker grants first.
  std::uint64_t Start(std::uint32_t window) {
    WorkerCoreOptions options;
    options.artifact_sha256 = "abc";
    options.loader_window = window;
    core_.emplace(options);
    Hello loader = Greeting(Role::kLoader);
    loader.loader_count = 1;
    loader.max_batch_bytes = 1024;
    loader.has_job_spec = true;
    loader.job_spec.mode = Mode::kVerdicts;
    core_->OnMessage(kLoader, loader, now_);
    core_->OnMessage(kPublisher, Greeting(Role::kPublisher), now_);
    ModelBegin begin;
    begin.session = session_;
    begin.run = begin.version = 1;
    begin.kind = ModelKind::kFull;
    core_->OnMessage(kPublisher, begin, now_);
    core_->OnModelAck(ModelAck{session_, 1, 1, ModelState::kApplied}, 10, "abc", now_);
    return Granted().value_or(0);
  }

  Hello Greeting(Role role) const {
    Hello hello;
    hello.session = session_;
    hello.role = role;
    hello.run = 1;
    return hello;
  }

  // The batches of the Credit that the last events gave, if they gave one.
  std::optional<std::uint64_t> Granted() {
    std::optional<std::uint64_t> granted;
    WorkerActions actions = core_->TakeActions();
    for (const WorkerActions::Send& send : actions.sends) {
      if (const auto* credit = std::get_if<Credit>(&send.message)) granted = credit->batches;
    }
    for (ScoredBatchPtr& batch : actions.admitted) in_graph_.push_back(std::move(batch));
    return granted;
  }

  std::optional<std::uint64_t> Send(std::uint64_t batches) {
    for (std::uint64_t i = 0; i < batches; ++i) {
      Candidates m;
      m.session = session_;
      m.run = 1;
      m.key.seq = seq_++;
      m.sample_id = {1};
      core_->OnMessage(kLoader, m, now_);
    }
    return Granted();
  }

  // One that takes all the bytes of a window of 8.
  std::optional<std::uint64_t> SendLarge() {
    Candidates m;
    m.session = session_;
    m.run = 1;
    m.key.seq = seq_++;
    m.sample_id = {1};
    m.tensors.push_back(
        {"x", DType::kUInt8, {1, 9000}, Frame::Adopt(std::vector<std::uint8_t>(9000))});
    core_->OnMessage(kLoader, m, now_);
    return Granted();
  }

  std::optional<std::uint64_t> DecideOne() {
    const ScoredBatchPtr batch = in_graph_.front();
    in_graph_.pop_front();
    batch->decision = UnsiftedDecision(1);
    core_->OnDecided(batch, now_);
    return Granted();
  }

  const SessionId session_{7, 1};
  const MonoTime now_{};
  std::optional<WorkerCore> core_;
  std::deque<ScoredBatchPtr> in_graph_;
  std::uint64_t seq_ = 0;
};

TEST_F(WorkerCredit, OneSpeaksForAQuarterOfTheLane) {
  ASSERT_EQ(Start(8), 8u);
  EXPECT_EQ(Send(8), std::nullopt);
  EXPECT_EQ(DecideOne(), std::nullopt);
  EXPECT_EQ(DecideOne(), 10u);
  EXPECT_EQ(Send(2), std::nullopt);
  EXPECT_EQ(DecideOne(), std::nullopt);
  EXPECT_EQ(DecideOne(), 12u);
}

TEST_F(WorkerCredit, ASmallLaneIsFilledAtOnce) {
  ASSERT_EQ(Start(2), 2u);
  EXPECT_EQ(Send(2), std::nullopt);
  EXPECT_EQ(DecideOne(), 3u);
  EXPECT_EQ(DecideOne(), 4u);
}

// Bug: a loader whose batch was larger than allowed had batches left to send and no bytes, for
// good.
TEST_F(WorkerCredit, BytesThatRanOutAreGrantedAtOnce) {
  ASSERT_EQ(Start(8), 8u);
  auto granted = SendLarge();
  if (!in_graph_.empty()) granted = DecideOne();
  EXPECT_EQ(granted, 9u);
}

TEST_F(WorkerCredit, AnEmptyLaneHasMostOfItsWindow) {
  for (const std::uint32_t window : {1u, 2u, 3u, 4u, 5u, 8u, 13u, 64u}) {
    std::uint64_t granted = Start(window);
    const std::uint64_t sent = granted;
    Send(sent);
    while (!in_graph_.empty()) granted = DecideOne().value_or(granted);
    EXPECT_GE(granted - sent, window - window / 4) << window;
    EXPECT_LE(granted - sent, window) << window;
  }
}

}  // namespace
}  // namespace siftd
