// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/trainer_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/delivery/core_driver.h"

namespace siftd {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kRun = 50;

Selected Rows(const BatchKey& key, std::uint32_t kept) {
  Selected s;
  s.run = kRun;
  s.key = key;
  s.decision.outcome = Outcome::kDecided;
  s.decision.rows = 4;
  for (std::uint32_t i = 0; i < kept; ++i) {
    s.decision.kept.push_back(i);
    s.sample_id.push_back(i);
  }
  return s;
}

class TrainerCoreTest : public testing::Test {
 protected:
  void Make(std::size_t workers, TrainerCoreOptions options = {}) {
    options.run = kRun;
    options.incarnation = 10;
    options.batch_size = 4;
    core = std::make_unique<TrainerCore>(options, workers, MonoTime{});
    d = std::make_unique<CoreDriver<TrainerCore, TrainerActions>>(*core);
    for (std::size_t w = 0; w < workers; ++w) d->Open(w);
  }
  void End(std::size_t w, std::uint32_t loader, std::uint64_t pass, std::uint64_t batches,
           bool final = false) {
    d->Say(w, EpochEnd{{}, kRun, loader, pass, static_cast<std::uint32_t>(pass), batches, final});
  }

  std::unique_ptr<TrainerCore> core;
  std::unique_ptr<CoreDriver<TrainerCore, TrainerActions>> d;
};

TEST_F(TrainerCoreTest, TheFirstSelectedDecidesAndEachDeliveryIsAcked) {
  Make(2);
  d->Say(0, Rows({0, 0, 0}, 3));
  ASSERT_EQ(d->last.accepted.size(), 1u);
  auto ack = d->Next<Ack>(0);
  ASSERT_TRUE(ack);
  EXPECT_EQ(ack->kept, std::vector<std::uint32_t>{3});
  d->Say(1, Rows({0, 0, 0}, 1));
  EXPECT_TRUE(d->last.accepted.empty());
  ack = d->Next<Ack>(1);
  ASSERT_TRUE(ack);
  EXPECT_EQ(ack->kept, std::vector<std::uint32_t>{3})
      << "the count of the decision that took effect";
  EXPECT_EQ(core->duplicates(), 1u);
  EXPECT_EQ(core->decided_count(), 1u);
}

// A bug once: what was on its way while the Goodbye was sent got an answer of no session.
TEST_F(TrainerCoreTest, WhoLeavesSaysSoAndThenNothing) {
  Make(1);
  core->Leave(d->now);
  d->Collect();
  EXPECT_TRUE(d->Next<Goodbye>(0));
  d->Say(0, Rows({0, 0, 0}, 3));
  d->Tick(milliseconds(2000));
  EXPECT_TRUE(d->sent[0].empty());
  EXPECT_EQ(core->decided_count(), 0u) << "not acked, so not taken";
}

TEST_F(TrainerCoreTest, GrantsTheWindowLessItsBufferedBatches) {
  Make(1);
  auto credit = d->Next<Credit>(0);
  ASSERT_TRUE(credit);
  EXPECT_EQ(credit->batches, 2u);
  d->Say(0, Rows({0, 0, 0}, 4));
  d->Say(0, Rows({0, 0, 1}, 4));
  EXPECT_FALSE(d->Next<Credit>(0)) << "two batches are buffered";
  core->OnConsumed({{0, 0, 0}}, 4, d->now);
  d->Collect();
  credit = d->Next<Credit>(0);
  ASSERT_TRUE(credit);
  EXPECT_EQ(credit->batches, 3u);
}

TEST_F(TrainerCoreTest, EmptyBatchesReturnTheirCredit) {
  Make(1);
  for (std::uint64_t seq = 0; seq < 10; ++seq) {
    const auto credit = d->Next<Credit>(0);
    ASSERT_TRUE(credit);
    EXPECT_EQ(credit->batches, seq + 2);
    d->Say(0, Rows({0, 0, seq}, 0));
  }
}

TEST_F(TrainerCoreTest, AStarvingRankGrantsOneToEverySession) {
  Make(1);
  d->Say(0, Rows({0, 0, 0}, 1));
  d->Say(0, Rows({0, 0, 1}, 1));
  std::uint64_t granted = 0;
  while (const auto credit = d->Next<Credit>(0)) granted = credit->batches;
  EXPECT_EQ(granted, 3u) << "the window is full of rows, but they make no batch";
}

TEST_F(TrainerCoreTest, ANewSessionGetsTheWindowLessOldRowsOfThatWorker) {
  Make(1);
  d->Say(0, Rows({0, 0, 0}, 4));
  d->Reopen(0, 1);
  const auto credit = d->Next<Credit>(0);
  ASSERT_TRUE(credit);
  EXPECT_EQ(credit->batches, 1u);
}

TEST_F(TrainerCoreTest, RowsWithoutCreditEndTheSession) {
  Make(1);
  for (const std::uint64_t seq : {0, 1}) d->Say(0, Rows({0, 0, seq}, 4));
  d->Say(0, Rows({0, 0, 2}, 4));
  EXPECT_TRUE(d->last.accepted.empty());
  EXPECT_EQ(core->connected(), 0u);
}

TEST_F(TrainerCoreTest, AnEpochEndsWhenAllLoadersEndedAndAllKeysAreDecided) {
  TrainerCoreOptions options;
  options.loader_count = 2;
  Make(2, options);
  d->Say(0, Rows({0, 0, 0}, 1));
  End(0, 0, 0, 1);
  End(1, 1, 0, 1, true);
  EXPECT_TRUE(d->last.ended.empty());
  EXPECT_FALSE(d->Next<EpochAck>(0));
  EXPECT_THAT(core->WaitingFor(d->now), HasSubstr("loader 1: 0 of 1 batches of pass 0 decided"));
  d->Say(1, Rows({1, 0, 0}, 0));
  ASSERT_EQ(d->last.ended.size(), 1u);
  EXPECT_EQ(d->last.ended[0].epoch, 0u);
  for (const std::size_t w : {0, 1}) {
    EXPECT_TRUE(d->Next<EpochAck>(w));
    EXPECT_TRUE(d->Next<EpochAck>(w)) << "each session learns of both loaders";
  }
  EXPECT_FALSE(core->AllFinal());
  EXPECT_EQ(core->decided().next_pass, (std::vector<std::uint64_t>{1, 1}));
}

TEST_F(TrainerCoreTest, AnEndSaidAgainAfterItsEpochIsAckedAtOnce) {
  Make(1);
  End(0, 0, 0, 0, true);
  ASSERT_TRUE(d->Next<EpochAck>(0));
  EXPECT_TRUE(core->AllFinal());
  End(0, 0, 0, 0, true);
  EXPECT_TRUE(d->Next<EpochAck>(0));
  EXPECT_TRUE(d->last.ended.empty());
}

TEST_F(TrainerCoreTest, InALargerWorldEndsAreAckedAtOnce) {
  TrainerCoreOptions options;
  options.world = 2;
  options.rank = 1;
  options.loader_count = 2;
  options.steps_per_epoch = 5;
  Make(1, options);
  End(0, 1, 0, 1);
  EXPECT_TRUE(d->Next<EpochAck>(0));
  EXPECT_TRUE(d->last.ended.empty());
  d->Say(0, Rows({1, 0, 0}, 1));
  EXPECT_EQ(core->decided().next_pass, (std::vector<std::uint64_t>{0, 1}));
}

TEST_F(TrainerCoreTest, PositionTellsWhatIsDecidedNow) {
  TrainerCoreOptions options;
  options.decided.next_pass = {1};
  Make(1, options);
  d->Say(0, Rows({0, 1, 0}, 1));
  d->Say(0, PositionRequest{{}, kRun, 0});
  const auto position = d->Next<Position>(0);
  ASSERT_TRUE(position);
  EXPECT_EQ(position->decided.next_pass, (std::vector<std::uint64_t>{1}));
  EXPECT_EQ(position->decided.intervals, (std::vector<DecidedInterval>{{0, 1, 0, 1}}));
  d->Say(0, PositionRequest{{}, kRun - 1, 0});
  EXPECT_FALSE(d->Next<Position>(0));
}

TEST_F(TrainerCoreTest, RowsOfAnotherRunAreNotTaken) {
  Make(1);
  Selected old = Rows({0, 0, 0}, 1);
  old.run = kRun - 1;
  d->Say(0, old);
  EXPECT_TRUE(d->last.accepted.empty());
  EXPECT_FALSE(d->Next<Ack>(0));
}

// Bug: the end of a run waited its whole linger time for a worker that had been killed.
TEST_F(TrainerCoreTest, AfterFinishAWorkerThatIsGoneIsNotWaitedFor) {
  Make(2);
  core->Finish(d->now);
  d->Collect();
  core->OnLinkLost(0, "killed", d->now);
  d->Collect();
  d->now += milliseconds(1000);
  EXPECT_FALSE(core->Idle()) << "the other one was not heard yet";
  d->Say(1, Heartbeat{});
  EXPECT_TRUE(core->Idle());
  core->OnLinkLost(1, "killed", d->now);
  EXPECT_FALSE(core->Idle()) << "nobody could tell the loaders";
}

TEST_F(TrainerCoreTest, AfterFinishItAcksAndDropsUntilTheWorkersWereHeard) {
  Make(1);
  core->Finish(d->now);
  d->Collect();
  const auto bye = d->Next<Goodbye>(0);
  ASSERT_TRUE(bye);
  EXPECT_EQ(bye->reason, GoodbyeReason::kDone);
  d->Say(0, Rows({0, 0, 0}, 2));
  EXPECT_TRUE(d->last.accepted.empty());
  EXPECT_TRUE(d->Next<Ack>(0));
  EXPECT_FALSE(core->Idle());
  d->now += milliseconds(1000);
  d->Say(0, Heartbeat{});
  EXPECT_TRUE(core->Idle());
  d->Reopen(0, 1);
  EXPECT_TRUE(d->Next<Goodbye>(0)) << "to each new session too";
  EXPECT_FALSE(core->Idle());
}

TEST_F(TrainerCoreTest, AnObsoleteRunFails) {
  TrainerCoreOptions options;
  options.run = kRun;
  core = std::make_unique<TrainerCore>(options, 1, MonoTime{});
  d = std::make_unique<CoreDriver<TrainerCore, TrainerActions>>(*core);
  d->Collect();
  ErrorMessage error;
  error.code = ErrorCode::kRunObsolete;
  error.fatal = true;
  d->Say(0, error);
  EXPECT_EQ(core->failure().code(), Code::kFailedPrecondition);
}

}  // namespace
}  // namespace siftd
