// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/loader_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/delivery/core_driver.h"

namespace siftd {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::uint64_t kRun = 50;

Candidates Batch(std::uint64_t seq, std::uint64_t pass = 0) {
  Candidates c;
  c.key = {0, pass, seq};
  c.sample_id = {seq};
  c.tensors = {{"x", DType::kUInt8, {1, 4}, Frame::Copy("abcd", 4)}};
  return c;
}

class LoaderCoreTest : public testing::Test {
 protected:
  void Make(Mode mode, std::size_t workers, std::uint32_t rescore_every = 1) {
    LoaderCoreOptions options;
    options.mode = mode;
    options.incarnation = 10;
    options.rescore_every = rescore_every;
    options.run = mode == Mode::kVerdicts ? kRun : 0;
    core = std::make_unique<LoaderCore>(options, workers, MonoTime{});
    d = std::make_unique<CoreDriver<LoaderCore, LoaderActions>>(*core);
  }
  void GivePosition(std::size_t w, std::uint64_t run = kRun, DecidedSet decided = {},
                    bool repeat = false) {
    Position p;
    p.run = run;
    p.decided = std::move(decided);
    p.repeat = repeat;
    d->Say(w, p);
    core->TakePosition();
  }
  void GiveCredit(std::size_t w, std::uint64_t batches) { d->Say(w, Credit{{}, batches, 1 << 20}); }
  void Offer(Candidates batch) {
    ASSERT_TRUE(core->Offer(std::move(batch), d->now).ok());
    d->Collect();
  }
  void SettleKeys(std::size_t w, std::vector<BatchKey> keys, std::uint64_t run = kRun) {
    Settled s;
    s.run = run;
    s.kept.assign(keys.size(), 1);
    s.keys = std::move(keys);
    d->Say(w, s);
  }
  // One worker with a session, a position and much credit.
  void Ready() {
    Make(Mode::kSamples, 1);
    d->Open(0);
    GivePosition(0);
    GiveCredit(0, 100);
  }

  std::unique_ptr<LoaderCore> core;
  std::unique_ptr<CoreDriver<LoaderCore, LoaderActions>> d;
};

TEST_F(LoaderCoreTest, WhenEveryWorkerRefusesTheHandshakeNothingMoreWillHappen) {
  Make(Mode::kSamples, 2);
  core->NameWorker(0, "tcp://a:1");
  core->OnRefused(0, "no such key", true, d->now);
  EXPECT_TRUE(core->failure().ok()) << "the other one may still take it";
  EXPECT_THAT(core->WaitingFor(d->now),
              HasSubstr("tcp://a:1: no Welcome since 0.0 s: no such key"));
  core->OnRefused(1, "cut in the handshake", false, d->now);
  EXPECT_TRUE(core->failure().ok()) << "that may be chance";
  core->OnRefused(1, "no such key", true, d->now);
  EXPECT_THAT(core->failure().message(), HasSubstr("worker 1: no such key"));
}

TEST_F(LoaderCoreTest, WhoWasWelcomedOnceWaitsThroughRefusals) {
  Make(Mode::kSamples, 1);
  d->Open(0);
  core->OnLinkLost(0, "cut", d->now);
  core->OnRefused(0, "no such key", true, d->now);
  EXPECT_TRUE(core->failure().ok());
  d->Tick(milliseconds(500));
  d->Open(0);
  EXPECT_THAT(core->WaitingFor(d->now), testing::Not(HasSubstr("no such key")));
}

TEST_F(LoaderCoreTest, AKeyThatMayNotBeALoaderIsAFailure) {
  Make(Mode::kSamples, 1);
  d->Collect();
  ErrorMessage error;
  error.code = ErrorCode::kNotAllowed;
  error.text = "role is loader";
  d->Say(0, error);
  EXPECT_TRUE(core->failure().ok()) << "not fatal: not now";
  d->Tick(milliseconds(500));
  error.fatal = true;
  d->Say(0, error);
  EXPECT_THAT(core->failure().message(), HasSubstr("role is loader"));
}

TEST_F(LoaderCoreTest, NothingIsOfferedBeforeThePositionIsKnown) {
  Make(Mode::kSamples, 1);
  d->Open(0);
  EXPECT_EQ(core->Offer(Batch(0), d->now).code(), Code::kFailedPrecondition);
  EXPECT_THAT(core->WaitingFor(d->now), HasSubstr("trainer"));
}

TEST_F(LoaderCoreTest, SendsOnlyWithCredit) {
  Make(Mode::kSamples, 1);
  d->Open(0);
  GivePosition(0);
  Offer(Batch(0));
  Offer(Batch(1));
  EXPECT_FALSE(d->Next<Candidates>(0));
  EXPECT_THAT(core->WaitingFor(d->now), HasSubstr("credit"));
  GiveCredit(0, 1);
  const auto first = d->Next<Candidates>(0);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->key.seq, 0u);
  EXPECT_EQ(first->run, kRun);
  EXPECT_EQ(first->session, d->session[0]);
  EXPECT_FALSE(d->Next<Candidates>(0));
  EXPECT_EQ(core->unsent(), 1u);
}

TEST_F(LoaderCoreTest, PrefersTheWorkerWithMostFreeCredit) {
  Make(Mode::kSamples, 2);
  d->Open(0);
  d->Open(1);
  GivePosition(0);
  GiveCredit(0, 1);
  GiveCredit(1, 3);
  for (const std::uint64_t seq : {0, 1}) Offer(Batch(seq));
  EXPECT_EQ(d->sent[1].size() - 1, 2u) << "and its Hello";
}

TEST_F(LoaderCoreTest, ALostSessionsLeasesGoOutAgainOldestFirst) {
  Make(Mode::kSamples, 2);
  d->Open(0);
  GivePosition(0);
  GiveCredit(0, 2);
  Offer(Batch(0));
  Offer(Batch(1));
  Offer(Batch(2));
  d->Open(1);
  core->OnLinkLost(0, "cut", d->now);
  GiveCredit(1, 3);
  for (const std::uint64_t seq : {0, 1, 2}) {
    const auto again = d->Next<Candidates>(1);
    ASSERT_TRUE(again);
    EXPECT_EQ(again->key.seq, seq);
    EXPECT_EQ(again->attempt, seq < 2 ? 1u : 0u);
  }
}

TEST_F(LoaderCoreTest, CreditOfALostSessionIsGone) {
  Ready();
  d->Reopen(0, 1);
  Offer(Batch(0));
  EXPECT_FALSE(d->Next<Candidates>(0));
}

// Pass 0 is scored whole; of pass 1 the rows whose hash says so, the others by their last score.
TEST_F(LoaderCoreTest, ScoresThatSettledBringDecideTheNextVisits) {
  Make(Mode::kSamples, 1, 2);
  d->Open(0);
  GivePosition(0, kRun, {}, true);
  GiveCredit(0, 100);
  Candidates batch = Batch(0);
  batch.sample_id = {1, 2, 3, 4, 5, 6, 7, 8};
  Offer(batch);
  EXPECT_THAT(d->Next<Candidates>(0)->prior_score, testing::Each(testing::IsNan()));
  Settled s;
  s.run = kRun;
  s.keys = {{0, 0, 0}};
  s.kept = {3};
  s.rows = {8};
  s.score = {10, 20, 30, 40, 50, 60, 70, 80};
  d->Say(0, s);
  batch.key.pass = 1;
  Offer(batch);
  const auto again = d->Next<Candidates>(0)->prior_score;
  ASSERT_EQ(again.size(), 8u);
  std::size_t known = 0;
  for (std::size_t i = 0; i < 8; ++i) {
    if (std::isnan(again[i])) continue;
    ++known;
    EXPECT_EQ(again[i], s.score[i]);
  }
  EXPECT_GT(known, 0u);
  EXPECT_LT(known, 8u);
}

TEST_F(LoaderCoreTest, WithoutRescoringNoPriorScoresAreSent) {
  Ready();
  Offer(Batch(0));
  EXPECT_TRUE(d->Next<Candidates>(0)->prior_score.empty());
}

TEST_F(LoaderCoreTest, ASettledOfAnotherRunIsIgnored) {
  Ready();
  Offer(Batch(0));
  SettleKeys(0, {{0, 0, 0}}, kRun - 1);
  EXPECT_EQ(core->outstanding(), 1u);
  SettleKeys(0, {{0, 0, 0}});
  EXPECT_EQ(core->outstanding(), 0u);
  EXPECT_EQ(d->last.settled, (std::vector<BatchKey>{{0, 0, 0}}));
}

TEST_F(LoaderCoreTest, AReturnedLeaseGoesOutAgain) {
  Ready();
  Offer(Batch(0));
  ASSERT_TRUE(d->Next<Candidates>(0));
  Return back;
  back.run = kRun;
  back.keys = {{0, 0, 0}};
  back.reason = ReturnReason::kDeadline;
  d->Say(0, back);
  const auto again = d->Next<Candidates>(0);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->attempt, 1u);
}

TEST_F(LoaderCoreTest, ADrainingWorkerGetsNothingMore) {
  Ready();
  d->Say(0, Drain{{}, "bye"});
  Offer(Batch(0));
  EXPECT_FALSE(d->Next<Candidates>(0));
}

TEST_F(LoaderCoreTest, SkipsWhatThePositionSaysIsDecided) {
  Make(Mode::kSamples, 1);
  d->Open(0);
  DecidedSet decided;
  decided.next_pass = {2};
  decided.intervals = {{0, 2, 0, 3}};
  Position p;
  p.run = kRun;
  p.decided = decided;
  d->Say(0, p);
  const auto position = core->TakePosition();
  ASSERT_TRUE(position);
  EXPECT_EQ(position->next_pass, 2u);
  GiveCredit(0, 10);
  Offer(Batch(2, 2));
  Offer(Batch(5, 1));
  EXPECT_EQ(core->outstanding(), 0u);
  Offer(Batch(3, 2));
  EXPECT_EQ(core->outstanding(), 1u);
}

TEST_F(LoaderCoreTest, ANewRunDropsLeasesAndMustBeTaken) {
  Ready();
  Offer(Batch(0));
  Position p;
  p.run = kRun + 1;
  d->Say(0, p);
  EXPECT_EQ(core->outstanding(), 0u);
  EXPECT_EQ(core->Offer(Batch(1), d->now).code(), Code::kFailedPrecondition);
  const auto position = core->TakePosition();
  ASSERT_TRUE(position);
  EXPECT_EQ(position->run, kRun + 1);
  EXPECT_TRUE(core->Offer(Batch(0), d->now).ok());
  p.run = kRun;  // an older run's
  d->Say(0, p);
  EXPECT_FALSE(core->TakePosition());
}

TEST_F(LoaderCoreTest, TheNextPassOpensWithTheAck) {
  Ready();
  Offer(Batch(0));
  core->EndPass(0, 0, 1, false, d->now);
  d->Collect();
  EXPECT_TRUE(d->Next<EpochEnd>(0));
  EXPECT_FALSE(core->PassAcked(0));
  EXPECT_EQ(core->Offer(Batch(0, 1), d->now).code(), Code::kFailedPrecondition);
  EXPECT_EQ(core->Offer(Batch(1, 0), d->now).code(), Code::kFailedPrecondition)
      << "the pass was ended";
  d->Say(0, EpochAck{{}, kRun, 0, 0});
  EXPECT_TRUE(core->PassAcked(0));
  EXPECT_EQ(core->outstanding(), 0u) << "acked means decided";
  EXPECT_EQ(d->last.settled, (std::vector<BatchKey>{{0, 0, 0}}));
  EXPECT_TRUE(core->Offer(Batch(0, 1), d->now).ok());
}

TEST_F(LoaderCoreTest, AnEndIsRepeatedOnEachSessionUntilAcked) {
  Ready();
  core->EndPass(0, 0, 0, true, d->now);
  d->Reopen(0, 1);
  EXPECT_TRUE(d->Next<EpochEnd>(0));
  EXPECT_FALSE(core->done());
  d->Say(0, EpochAck{{}, kRun, 0, 0});
  EXPECT_TRUE(core->done());
  d->Reopen(0, 1);
  EXPECT_FALSE(d->Next<EpochEnd>(0));
}

TEST_F(LoaderCoreTest, WithStepsPerEpochPassesMixAndGoodbyeEnds) {
  Make(Mode::kSamples, 1);
  d->Open(0);
  GivePosition(0, kRun, {}, true);
  GiveCredit(0, 10);
  Offer(Batch(0));
  core->EndPass(0, 0, 1, false, d->now);
  EXPECT_TRUE(core->PassAcked(0));
  Offer(Batch(0, 1));
  EXPECT_EQ(core->outstanding(), 2u);
  d->Say(0, EpochAck{{}, kRun, 0, 0});
  EXPECT_EQ(core->outstanding(), 2u) << "acked at once: nothing is said about its keys";
  d->Say(0, Goodbye{{}, GoodbyeReason::kDone, kRun - 1});
  EXPECT_FALSE(core->done()) << "of an older run";
  d->Say(0, Goodbye{{}, GoodbyeReason::kDone, kRun});
  EXPECT_TRUE(core->done());
}

// Bug: loaders of a second job that came up before its trainer took the first one's end for their
// own, and left.
TEST_F(LoaderCoreTest, TheEndOfAnOlderJobIsNotItsOwn) {
  Make(Mode::kSamples, 1);
  d->Open(0);
  d->Say(0, Goodbye{{}, GoodbyeReason::kDone, kRun - 1});
  EXPECT_FALSE(core->done());
  EXPECT_THAT(core->WaitingFor(d->now), testing::HasSubstr("start the trainer"));
}

TEST_F(LoaderCoreTest, AGoodbyeBeforeThePositionStillEndsThatRun) {
  Make(Mode::kSamples, 1);
  d->Open(0);
  d->Say(0, Goodbye{{}, GoodbyeReason::kDone, kRun});
  GivePosition(0);
  EXPECT_TRUE(core->done());
  GivePosition(0, kRun + 1);
  EXPECT_FALSE(core->done()) << "a newer run begins";
}

TEST_F(LoaderCoreTest, VerdictsSettleOnceAndCancelledOnesAreDropped) {
  Make(Mode::kVerdicts, 1);
  d->Open(0);
  ASSERT_TRUE(core->TakePosition()) << "known at once";
  GiveCredit(0, 10);
  for (const std::uint64_t seq : {0, 1, 2}) Offer(Batch(seq));
  Verdict v;
  v.run = kRun;
  v.decision.rows = 1;
  v.key = {0, 0, 0};
  d->Say(0, v);
  EXPECT_EQ(d->last.verdicts.size(), 1u);
  d->Say(0, v);
  EXPECT_EQ(d->last.verdicts.size(), 0u);
  v.key.seq = 1;
  core->CloseLease(v.key, d->now);
  d->Say(0, v);
  EXPECT_EQ(d->last.verdicts.size(), 0u);
  core->CancelPass(0, d->now);
  v.key.seq = 2;
  d->Say(0, v);
  EXPECT_EQ(d->last.verdicts.size(), 0u);
  EXPECT_EQ(core->late_verdicts(), 3u);
  EXPECT_EQ(core->outstanding(), 0u);
}

TEST_F(LoaderCoreTest, AVerdictOnOtherRowsThanWereSentEndsTheSession) {
  Make(Mode::kVerdicts, 1);
  d->Open(0);
  ASSERT_TRUE(core->TakePosition());
  GiveCredit(0, 10);
  Offer(Batch(0));
  Verdict v;
  v.run = kRun;
  v.decision.rows = 2;
  d->Say(0, v);
  EXPECT_TRUE(d->last.verdicts.empty());
  EXPECT_EQ(core->connected(), 0u);
  EXPECT_EQ(core->unsent(), 1u) << "it goes out again";
}

TEST_F(LoaderCoreTest, VerdictsOnLeasesThatWereGivenUpAreTimed) {
  Make(Mode::kVerdicts, 1);
  d->Open(0);
  ASSERT_TRUE(core->TakePosition());
  GiveCredit(0, 3);
  for (const std::uint64_t seq : {0, 1, 2, 3}) Offer(Batch(seq));
  core->CloseLease({0, 0, 1}, d->now);
  core->CancelPass(0, d->now);
  d->now += milliseconds(300);
  Verdict v;
  v.run = kRun;
  v.decision.rows = 1;
  for (const std::uint64_t seq : {0, 1}) {
    v.key = {0, 0, seq};
    d->Say(0, v);
    EXPECT_THAT(d->last.late, ElementsAre(milliseconds(300))) << seq;
    d->Say(0, v);
    EXPECT_THAT(d->last.late, IsEmpty()) << "once";
  }
  v.key = {0, 0, 3};
  d->Say(0, v);
  EXPECT_THAT(d->last.late, IsEmpty()) << "it was never sent";
}

TEST_F(LoaderCoreTest, AVerdictHelloCarriesRunAndJob) {
  Make(Mode::kVerdicts, 1);
  d->Collect();
  const auto hello = d->Next<Hello>(0);
  ASSERT_TRUE(hello);
  EXPECT_EQ(hello->run, kRun);
  EXPECT_TRUE(hello->has_job_spec);
}

TEST_F(LoaderCoreTest, SuspectsAreScoredOneAtATimeAtAnIdleWorker) {
  Ready();
  for (const std::uint64_t seq : {0, 1}) Offer(Batch(seq));
  d->Reopen(0, 2);  // another incarnation: it died with both
  Offer(Batch(2));
  GiveCredit(0, 10);
  const auto first = d->Next<Candidates>(0);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->key.seq, 0u);
  EXPECT_TRUE(first->suspect);
  EXPECT_FALSE(d->Next<Candidates>(0)) << "alone";
  SettleKeys(0, {{0, 0, 0}});
  const auto second = d->Next<Candidates>(0);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->key.seq, 1u);
  EXPECT_TRUE(second->suspect);
  SettleKeys(0, {{0, 0, 1}});
  const auto third = d->Next<Candidates>(0);
  ASSERT_TRUE(third);
  EXPECT_EQ(third->key.seq, 2u);
  EXPECT_FALSE(third->suspect);
}

TEST_F(LoaderCoreTest, OtherWorkersGoOnWhileASuspectIsAlone) {
  Make(Mode::kSamples, 2);
  d->Open(0, 1);
  d->Open(1, 1);
  GivePosition(0);
  GiveCredit(0, 1);
  Offer(Batch(0));
  ASSERT_TRUE(d->Next<Candidates>(0));
  d->Reopen(0, 2);
  GiveCredit(0, 5);
  const auto suspect = d->Next<Candidates>(0);
  ASSERT_TRUE(suspect);
  EXPECT_TRUE(suspect->suspect);
  GiveCredit(1, 5);
  Offer(Batch(1));
  EXPECT_TRUE(d->Next<Candidates>(1));
  EXPECT_FALSE(d->Next<Candidates>(0));
}

TEST_F(LoaderCoreTest, TwoDeathsAloneSendItUnscored) {
  Ready();
  Offer(Batch(0));
  for (const std::uint64_t incarnation : {2, 3, 4}) {
    d->Reopen(0, incarnation);
    GiveCredit(0, 10);
  }
  const auto sent = d->Next<Candidates>(0);
  ASSERT_TRUE(sent);
  EXPECT_TRUE(sent->unscored);
  EXPECT_THAT(d->log, testing::Contains(HasSubstr("quarantined")));
  for (const std::uint64_t incarnation : {5, 6}) {
    d->Reopen(0, incarnation);
    GiveCredit(0, 10);
  }
  const auto rejected = d->Next<Candidates>(0);
  ASSERT_TRUE(rejected);
  EXPECT_TRUE(rejected->tensors.empty()) << "so that the worker rejects it";
}

// Bug: it waited at the worker behind another loader's suspect, and was blamed for that one's
// deaths.
TEST_F(LoaderCoreTest, ASuspectThatIsGivenBackIsTriedAgainLaterAndNotBlamed) {
  Ready();
  Offer(Batch(0));
  for (std::uint64_t incarnation = 2; incarnation < 6; ++incarnation) {
    d->Reopen(0, incarnation);
    GiveCredit(0, 10);
    const auto sent = d->Next<Candidates>(0);
    ASSERT_TRUE(sent);
    EXPECT_TRUE(sent->suspect);
    EXPECT_FALSE(sent->unscored) << "incarnation " << incarnation;
    Return busy;
    busy.run = kRun;
    busy.keys = {{0, 0, 0}};
    busy.reason = ReturnReason::kLaneHung;
    d->Say(0, busy);
    EXPECT_FALSE(d->Next<Candidates>(0)) << "not at once";
    d->Tick(milliseconds(20));
    EXPECT_FALSE(d->Next<Candidates>(0));
    d->Tick(milliseconds(40));
    EXPECT_TRUE(d->Next<Candidates>(0));
    d->Say(0, busy);
  }
}

TEST_F(LoaderCoreTest, ACutLinkMakesNoSuspects) {
  Ready();
  Offer(Batch(0));
  d->Reopen(0, 1);
  GiveCredit(0, 10);
  const auto again = d->Next<Candidates>(0);
  ASSERT_TRUE(again);
  EXPECT_FALSE(again->suspect);
}

TEST_F(LoaderCoreTest, ALeaseBeyondItsDeadlineGoesOutAgain) {
  LoaderCoreOptions options;
  options.incarnation = 10;
  options.lease_deadline = milliseconds(100);
  core = std::make_unique<LoaderCore>(options, 1, MonoTime{});
  d = std::make_unique<CoreDriver<LoaderCore, LoaderActions>>(*core);
  d->Open(0);
  GivePosition(0);
  GiveCredit(0, 10);
  Offer(Batch(0));
  ASSERT_TRUE(d->Next<Candidates>(0));
  d->Tick(milliseconds(100));
  EXPECT_FALSE(d->Next<Candidates>(0));
  d->Tick(milliseconds(1));
  EXPECT_TRUE(d->Next<Candidates>(0));
}

TEST_F(LoaderCoreTest, RefusesWhatItCannotSend) {
  Ready();
  Candidates batch = Batch(0);
  batch.key.loader = 3;
  EXPECT_THAT(core->Offer(batch, d->now).message(), HasSubstr("key.loader is 3"));
  batch = Batch(0);
  batch.sample_id.clear();
  EXPECT_THAT(core->Offer(batch, d->now).message(), HasSubstr("0 rows"));
  Offer(Batch(0));
  EXPECT_THAT(core->Offer(Batch(0), d->now).message(), HasSubstr("twice"));
}

TEST_F(LoaderCoreTest, ARefusalThatWillNotChangeIsAFailure) {
  Make(Mode::kSamples, 1);
  core->NameWorker(0, "tcp://w:1");
  d->Collect();
  ErrorMessage error;
  error.code = ErrorCode::kBudgetTooSmall;
  error.text = "budget_bytes 1";
  error.fatal = true;
  d->Say(0, error);
  EXPECT_EQ(core->failure().code(), Code::kResourceExhausted);
  EXPECT_THAT(core->failure().message(), HasSubstr("tcp://w:1: budget_bytes 1"));
  d->Tick(std::chrono::hours(1));
  EXPECT_EQ(d->reconnects[0], 0);
}

TEST_F(LoaderCoreTest, HeartbeatsTellTheOldestLease) {
  Ready();
  Offer(Batch(0));
  d->sent[0].clear();
  d->Tick(milliseconds(1000));
  const auto beat = d->Next<Heartbeat>(0);
  ASSERT_TRUE(beat);
  EXPECT_EQ(beat->oldest_lease_ms, 1000u);
}

TEST_F(LoaderCoreTest, ASilentWorkerIsLost) {
  Ready();
  Offer(Batch(0));
  d->Tick(milliseconds(5001));
  EXPECT_EQ(core->connected(), 0u);
  EXPECT_EQ(core->unsent(), 1u);
  EXPECT_THAT(core->WaitingFor(d->now), HasSubstr("not connected"));
}

}  // namespace
}  // namespace siftd
