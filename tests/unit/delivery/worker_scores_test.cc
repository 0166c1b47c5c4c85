// SPDX-License-Identifier: Apache-2.0
// The worker's core and prior scores: Settled brings the scores to a loader that keeps them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "pipeline/delivery/worker_core.h"

namespace siftd {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr PeerHandle kPublisher = 1;
constexpr PeerHandle kTrainer = 2;
constexpr PeerHandle kLoader = 3;

class WorkerScores : public testing::Test {
 protected:
  WorkerScores() : core_(Options()) {
    Hello trainer = Greeting(Role::kTrainer);
    trainer.run = trainer.world = 1;
    trainer.has_job_spec = true;
    trainer.job_spec.mode = Mode::kSamples;
    core_.OnMessage(kTrainer, trainer, now_);
    Hello publisher = Greeting(Role::kPublisher);
    publisher.run = 1;
    core_.OnMessage(kPublisher, publisher, now_);
    Hello loader = Greeting(Role::kLoader);
    loader.loader_count = 1;
    loader.max_batch_bytes = 1 << 20;
    core_.OnMessage(kLoader, loader, now_);
    ModelBegin begin;
    begin.session = session_;
    begin.run = begin.version = 1;
    begin.kind = ModelKind::kFull;
    core_.OnMessage(kPublisher, begin, now_);
    core_.OnModelAck(ModelAck{session_, 1, 1, ModelState::kApplied}, 10, "abc", now_);
    Position position;
    position.session = session_;
    position.run = position.world = 1;
    core_.OnMessage(kTrainer, position, now_);
    core_.OnMessage(kTrainer, Credit{session_, 1000, 1ull << 40}, now_);
    core_.TakeActions();
  }

  static WorkerCoreOptions Options() {
    WorkerCoreOptions options;
    options.artifact_sha256 = "abc";
    options.max_rows = 1 << 20;
    options.loader_window = 100;
    return options;
  }

  Hello Greeting(Role role) const {
    Hello hello;
    hello.session = session_;
    hello.role = role;
    return hello;
  }

  // A batch of `rows` rows goes through; its scores are seq, seq + 1, ...
  BatchKey Decide(std::uint64_t seq, std::uint32_t rows, std::vector<float> prior) {
    Candidates c;
    c.session = session_;
    c.run = 1;
    c.key = {0, 0, seq};
    c.sample_id.resize(rows);
    c.prior_score = std::move(prior);
    core_.OnMessage(kLoader, c, now_);
    for (const ScoredBatchPtr& batch : core_.TakeActions().admitted) {
      batch->decision.outcome = Outcome::kDecided;
      batch->decision.rows = rows;
      for (std::uint32_t i = 0; i < rows; ++i)
        batch->decision.score.push_back(static_cast<float>(seq + i));
      batch->scored_rows = static_cast<std::uint32_t>(CountToScore(batch->candidates));
      core_.OnDecided(batch, now_);
    }
    core_.TakeActions();
    return c.key;
  }

  std::vector<Settled> Ack(std::vector<BatchKey> keys) {
    siftd::Ack ack;
    ack.session = session_;
    ack.run = 1;
    ack.kept.assign(keys.size(), 0);
    ack.keys = std::move(keys);
    core_.OnMessage(kTrainer, ack, now_);
    std::vector<Settled> settled;
    for (WorkerActions::Send& send : core_.TakeActions().sends) {
      if (auto* s = std::get_if<Settled>(&send.message)) settled.push_back(std::move(*s));
    }
    return settled;
  }

  const SessionId session_{7, 1};
  const MonoTime now_{};
  WorkerCore core_;
};

TEST_F(WorkerScores, SettledBringsThemToWhoSentPriorScores) {
  const std::vector keys{Decide(0, 2, {}), Decide(1, 2, {NAN, NAN}), Decide(2, 1, {5})};
  const auto settled = Ack(keys);
  ASSERT_EQ(settled.size(), 1u);
  EXPECT_EQ(settled[0].keys, keys);
  EXPECT_THAT(settled[0].rows, ElementsAre(0, 2, 1));
  EXPECT_THAT(settled[0].score, ElementsAre(1, 2, 2));
  EXPECT_EQ(core_.Snapshot(now_).scored, 4u);
}

TEST_F(WorkerScores, OthersHearNoneOfThem) {
  const auto settled = Ack({Decide(0, 2, {}), Decide(1, 3, {})});
  ASSERT_EQ(settled.size(), 1u);
  EXPECT_THAT(settled[0].rows, IsEmpty());
  EXPECT_THAT(settled[0].score, IsEmpty());
}

TEST_F(WorkerScores, AMessageHoldsNoMoreThanItsLimit) {
  constexpr std::uint32_t kMany = (1u << 19) + 1;
  const std::vector<float> prior(kMany, NAN);
  const auto settled = Ack({Decide(0, kMany, prior), Decide(1, kMany, prior)});
  ASSERT_EQ(settled.size(), 2u);
  for (const Settled& s : settled) {
    EXPECT_EQ(s.keys.size(), 1u);
    EXPECT_EQ(s.kept.size(), 1u);
    EXPECT_THAT(s.rows, ElementsAre(kMany));
    EXPECT_EQ(s.score.size(), kMany);
  }
}

}  // namespace
}  // namespace siftd
