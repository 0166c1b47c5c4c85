// SPDX-License-Identifier: Apache-2.0
// The worker's side of backend python against fake_child.py, which can misbehave in every way.
#include "pipeline/model/python_replica.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <mutex>

#include "pipeline/base/thread.h"
#include "pipeline/model/scorer.h"
#include "tests/unit/model/fixture.h"

namespace siftd {
namespace {

using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

// First values of a row that the fake child knows.
enum Misdeed {
  kCrash = -1,
  kHang = -2,
  kRaise = -3,
  kWrongMagic = -4,
  kWrongType = -5,
  kWrongSize = -6,
  kLongError = -7,
  kMeet = -8,
  kCrashOnce = -9,
  kHalf = -10
};
constexpr float kDeadlyWeight = 666.0f;

// `rows` rows, the first of which begins with `first`.
ScoredBatchPtr With(float first, std::size_t rows = 1) {
  auto batch = Ones(rows);
  std::vector<float> x(rows * kWidth, 1.0f);
  x[0] = first;
  batch->candidates.tensors = {
      Floats("x", {static_cast<std::int64_t>(rows), kWidth}, std::move(x))};
  return batch;
}

class PythonReplicaTest : public testing::Test {
 protected:
  PythonReplicaTest() {
    std::string pattern = testing::TempDir() + "siftd-fake-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    setenv("FAKE_CHILD_DIR", folder_.c_str(), 1);
    options_.child.python = SIFTD_FAKE_PYTHON;
    options_.child.factory = "fake:scorer";
    options_.log = [this](const std::string& line) {
      const std::lock_guard lock(mu_);
      log_ += line + "\n";
    };
  }
  ~PythonReplicaTest() override {
    replica_.reset();
    std::filesystem::remove_all(folder_);
  }

  Status Start() {
    auto replica = PythonReplica::Start(options_, [](std::string_view bytes) {
      return bytes == "the manifest" ? Result<ArtifactManifest>(Manifest())
                                     : InvalidArgument("another manifest");
    });
    if (replica.ok()) replica_ = std::move(*replica);
    return replica.status();
  }

  // Loss of a batch of ones, or NaN.
  float Loss(std::size_t rows = 1) {
    auto batch = Ones(rows);
    const Status status = replica_->Score({batch});
    EXPECT_EQ(status, OkStatus());
    last_ = batch;
    return status.ok() ? batch->scores.columns[0][0] : NAN;
  }

  pid_t ChildPid() {
    Loss();
    return static_cast<pid_t>(last_->scores.columns[1][0]);
  }

  std::string LogText() {
    const std::lock_guard lock(mu_);
    return log_;
  }

  std::filesystem::path folder_;
  PythonReplicaOptions options_;
  std::mutex mu_;
  std::string log_;  // guarded by mu_
  std::unique_ptr<PythonReplica> replica_;
  ScoredBatchPtr last_;
};

TEST_F(PythonReplicaTest, ScoresEachBatchOfAGroup) {
  ASSERT_EQ(Start(), OkStatus());
  const std::vector<ScoredBatchPtr> batches{Ones(2), With(5.0f, 3)};
  ASSERT_EQ(replica_->Score(batches), OkStatus());
  EXPECT_THAT(batches[0]->scores.names, ElementsAre("loss", "confidence"));
  EXPECT_THAT(batches[0]->scores.columns[0], ElementsAre(3.0f, 3.0f));
  EXPECT_THAT(batches[1]->scores.columns[0], ElementsAre(7.0f, 3.0f, 3.0f));
  EXPECT_THAT(batches[1]->scores.columns[1], testing::SizeIs(3));
  EXPECT_EQ(batches[0]->model_version, 0u) << "the factory's own weights";
  EXPECT_EQ(replica_->sha256().substr(0, 16), "0123456789abcdef");
}

TEST_F(PythonReplicaTest, ABatchWithoutRowsNeedsNoForward) {
  ASSERT_EQ(Start(), OkStatus());
  auto none = Ones(0);
  ASSERT_EQ(replica_->Score({none}), OkStatus());
  EXPECT_THAT(none->scores.columns, ElementsAre(testing::IsEmpty(), testing::IsEmpty()));
}

TEST_F(PythonReplicaTest, MessagesMayBeLargerThanTheSocketsBuffer) {
  ASSERT_EQ(Start(), OkStatus());
  EXPECT_EQ(Loss(200'000), 3.0f);
  EXPECT_THAT(last_->scores.columns[0], AllOf(testing::SizeIs(200'000), Each(3.0f)));
}

TEST_F(PythonReplicaTest, AnUpdateIsStampedWithVersionAndStep) {
  ASSERT_EQ(Start(), OkStatus());
  ASSERT_FALSE(replica_->Update(Weights(4, 2.0f)).has_value());
  EXPECT_EQ(Loss(), 8.0f);
  EXPECT_EQ(last_->model_version, 4u);
  EXPECT_EQ(last_->model_step, 40u);
}

TEST_F(PythonReplicaTest, ARefusedVersionLeavesTheOldOne) {
  ASSERT_EQ(Start(), OkStatus());
  ASSERT_FALSE(replica_->Update(Weights(1, 2.0f)).has_value());
  WeightsVersion w = Weights(2, 5.0f);
  w.tensors[1] = Floats("bias", {}, {NAN});
  auto error = replica_->Update(w);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code, ErrorCode::kModelNotFinite);
  EXPECT_THAT(error->text, HasSubstr("'bias' hold NaN"));
  w = Weights(2, 5.0f);
  w.tensors.pop_back();
  error = replica_->Update(w);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code, ErrorCode::kModelMismatch);
  EXPECT_EQ(Loss(), 8.0f);
  EXPECT_EQ(last_->model_version, 1u);
  EXPECT_EQ(replica_->deaths(), 0u);
}

TEST_F(PythonReplicaTest, NonFiniteWeightsAreTakenWhereThatIsAllowed) {
  options_.refuse_non_finite = false;
  ASSERT_EQ(Start(), OkStatus());
  ASSERT_FALSE(replica_->Update(Weights(1, NAN)).has_value());
  EXPECT_TRUE(std::isnan(Loss()));
}

TEST_F(PythonReplicaTest, ADeltaChangesOnlyWhatItNamesAlsoInAChildThatCameLater) {
  ASSERT_EQ(Start(), OkStatus());
  WeightsVersion delta = Weights(2, 0.0f);
  delta.kind = ModelKind::kDelta;
  delta.tensors.erase(delta.tensors.begin());  // bias only
  EXPECT_EQ(replica_->Update(delta)->code, ErrorCode::kModelMismatch) << "nothing to change yet";
  ASSERT_FALSE(replica_->Update(Weights(1, 2.0f)).has_value());
  ASSERT_FALSE(replica_->Update(delta).has_value());
  EXPECT_EQ(Loss(), 6.0f);
  EXPECT_EQ(last_->model_version, 2u);
  EXPECT_EQ(replica_->Score({With(kCrash)}).code(), Code::kUnavailable);
  EXPECT_EQ(Loss(), 6.0f);
  EXPECT_EQ(last_->model_version, 2u);
}

TEST_F(PythonReplicaTest, ADeathIsOneErrorThatSaysHow) {
  ASSERT_EQ(Start(), OkStatus());
  ASSERT_FALSE(replica_->Update(Weights(3, 2.0f)).has_value());
  const Status status = replica_->Score({With(kCrash)});
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("was ended by signal 11 (Segmentation fault)"));
  EXPECT_THAT(LogText(), HasSubstr("another one takes its place"));
  EXPECT_EQ(replica_->deaths(), 1u);
  EXPECT_EQ(Loss(), 8.0f) << "the new child lacks the weights in force";
  EXPECT_EQ(last_->model_version, 3u);
}

TEST_F(PythonReplicaTest, AChildThatHangsIsKilledAtTheDeadline) {
  options_.score_deadline = milliseconds(300);
  ASSERT_EQ(Start(), OkStatus());
  const pid_t pid = ChildPid();
  const Status status = replica_->Score({With(kHang)});
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
  EXPECT_THAT(status.message(), HasSubstr("gave no answer within 0.3 s and was killed"));
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_EQ(Loss(), 3.0f);
}

TEST_F(PythonReplicaTest, AChildThatDiedIdleCostsNoBatch) {
  ASSERT_EQ(Start(), OkStatus());
  ASSERT_FALSE(replica_->Update(Weights(1, 2.0f)).has_value());
  const pid_t pid = ChildPid();
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  siginfo_t info;  // dead, and not reaped: that is the replica's
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(Loss(), 8.0f);
  EXPECT_NE(static_cast<pid_t>(last_->scores.columns[1][0]), pid);
  EXPECT_EQ(replica_->deaths(), 1u);
  EXPECT_THAT(LogText(), HasSubstr("signal 9 (Killed)"));
}

TEST_F(PythonReplicaTest, AfterFiveDeathsInARowItStaysDown) {
  ASSERT_EQ(Start(), OkStatus());
  for (int i = 1; i < PythonReplica::kMostDeaths; ++i)
    EXPECT_EQ(replica_->Score({With(kCrash)}).code(), Code::kUnavailable) << i;
  EXPECT_EQ(replica_->down(), "");
  const Status last = replica_->Score({With(kCrash)});
  EXPECT_EQ(last.code(), Code::kInternal) << "not to be tried again";
  for (const Status& status : {last, replica_->Score({Ones(1)})}) {
    EXPECT_THAT(status.message(), AllOf(HasSubstr("stays down after 5 deaths"),
                                        HasSubstr("signal 11 (Segmentation fault)")));
  }
  EXPECT_THAT(replica_->Update(Weights(1, 1.0f))->text, HasSubstr("stays down"));
  EXPECT_THAT(LogText(), HasSubstr(replica_->down()));
  EXPECT_EQ(replica_->deaths(), 5u);
}

TEST_F(PythonReplicaTest, AScoredBatchInBetweenKeepsItUp) {
  ASSERT_EQ(Start(), OkStatus());
  for (int i = 0; i < 2 * PythonReplica::kMostDeaths; ++i) {
    EXPECT_EQ(replica_->Score({With(kCrash)}).code(), Code::kUnavailable);
    EXPECT_EQ(Loss(), 3.0f);
  }
}

TEST_F(PythonReplicaTest, AnErrorOfTheUsersCodeLeavesTheChildAlive) {
  ASSERT_EQ(Start(), OkStatus());
  const pid_t pid = ChildPid();
  const Status status = replica_->Score({With(kRaise)});
  EXPECT_EQ(status, Internal("the scorer failed: ValueError: negative rows"));
  EXPECT_EQ(ChildPid(), pid);
  EXPECT_EQ(replica_->deaths(), 0u);
}

TEST_F(PythonReplicaTest, AnAnswerThatIsNoneEndsTheChild) {
  ASSERT_EQ(Start(), OkStatus());
  for (const Misdeed misdeed : {kWrongMagic, kWrongType, kWrongSize, kLongError, kHalf}) {
    auto batch = With(static_cast<float>(misdeed));
    const Status status = replica_->Score({batch});
    EXPECT_EQ(status.code(), Code::kUnavailable) << misdeed;
    EXPECT_THAT(status.message(),
                HasSubstr(misdeed == kHalf ? "ended with exit code 9" : "and was killed"));
    EXPECT_THAT(batch->scores.columns, testing::IsEmpty()) << misdeed;
    EXPECT_EQ(Loss(), 3.0f) << misdeed;
  }
}

TEST_F(PythonReplicaTest, LanesScoreAtTheSameTimeAndAllHoldTheNewestVersion) {
  options_.lanes = 2;
  ASSERT_EQ(Start(), OkStatus());
  ASSERT_FALSE(replica_->Update(Weights(6, 2.0f)).has_value());
  // Each batch is answered once the other one is being scored too.
  auto one = With(kMeet);
  auto two = With(kMeet);
  auto other = std::async(std::launch::async, [&] { return replica_->Score({one}); });
  EXPECT_EQ(replica_->Score({two}), OkStatus());
  EXPECT_EQ(other.get(), OkStatus());
  for (const auto& batch : {one, two}) {
    EXPECT_EQ(batch->model_version, 6u);
    EXPECT_EQ(batch->scores.columns[0][0], 2.0f * static_cast<float>(kMeet + 1 + 1) + 2.0f);
  }
  EXPECT_NE(one->scores.columns[1][0], two->scores.columns[1][0]);
}

TEST_F(PythonReplicaTest, AVersionThatKillsTheChildIsRefusedAndTheOldOneStays) {
  options_.lanes = 2;
  ASSERT_EQ(Start(), OkStatus());
  ASSERT_FALSE(replica_->Update(Weights(1, 2.0f)).has_value());
  const auto error = replica_->Update(Weights(2, kDeadlyWeight));
  ASSERT_TRUE(error.has_value());
  EXPECT_THAT(error->text, HasSubstr("signal 11"));
  EXPECT_EQ(replica_->deaths(), 2u) << "the one in its place got a try";
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(Loss(), 8.0f);
    EXPECT_EQ(last_->model_version, 1u);
  }
}

TEST_F(PythonReplicaTest, VersionsAreNeverMixedWhileLanesScoreAndDie) {
  options_.lanes = 2;
  ASSERT_EQ(Start(), OkStatus());
  ASSERT_FALSE(replica_->Update(Weights(1, 1.0f)).has_value());
  std::atomic<bool> done{false};
  const auto score = [&](int crash_every) {
    for (int i = 1; !done; ++i) {
      auto batch = Ones(4);
      if (crash_every > 0 && i % crash_every == 0) batch = With(kCrash);
      if (!replica_->Score({batch}).ok()) continue;
      for (const float loss : batch->scores.columns[0])
        ASSERT_EQ(loss, 4.0f * static_cast<float>(batch->model_version));
    }
  };
  Thread steady("steady", [&] { score(0); });
  Thread deadly("deadly", [&] { score(40); });
  float base = 1.0f;  // the weights of the last full version
  for (std::uint64_t v = 2; v <= 60; ++v) {
    const auto value = static_cast<float>(v);
    WeightsVersion weights = Weights(v, value);
    if (v % 3 == 0) {
      base = value;
    } else {  // the bias alone, and right over this base only
      weights.kind = ModelKind::kDelta;
      weights.tensors = {Floats("bias", {}, {4 * value - 3 * base})};
    }
    if (const auto error = replica_->Update(weights)) {
      ADD_FAILURE() << v << ": " << error->text;
      break;
    }
  }
  done = true;
  steady.Join();
  deadly.Join();
  EXPECT_EQ(replica_->down(), "");
  EXPECT_EQ(Loss(), 240.0f);
}

TEST_F(PythonReplicaTest, StopEndsAForwardThatHangs) {
  options_.score_deadline = std::chrono::hours(1);
  ASSERT_EQ(Start(), OkStatus());
  auto hangs = std::async(std::launch::async, [&] { return replica_->Score({With(kHang)}); });
  while (!std::filesystem::exists(folder_ / "hangs")) std::this_thread::yield();
  replica_->Stop();
  EXPECT_EQ(hangs.get().code(), Code::kCancelled);
  EXPECT_EQ(replica_->Score({Ones(1)}).code(), Code::kCancelled);
  EXPECT_TRUE(replica_->Update(Weights(1, 1.0f)).has_value());
}

TEST_F(PythonReplicaTest, ItsChildrenEndWithIt) {
  ASSERT_EQ(Start(), OkStatus());
  const pid_t pid = ChildPid();
  replica_.reset();
  EXPECT_EQ(kill(pid, 0), -1);
}

TEST_F(PythonReplicaTest, AChildInheritsNothingButItsSocket) {
  options_.child.factory = "fake:inspect";
  // 4 is the folder that is being listed.
  EXPECT_THAT(Start().message(),
              HasSubstr("fds 0 1 2 3 4; blocked 0; own group True; stdin /dev/null"));
}

TEST_F(PythonReplicaTest, AStartThatFailsSaysWhy) {
  options_.child.factory = "fake:fails";
  EXPECT_EQ(Start(), InvalidArgument("python_factory 'fake:fails': ImportError: no such model"));
  options_.child.factory = "fake:exits";
  EXPECT_THAT(Start().message(), HasSubstr("ended with exit code 7 before its scorer was ready"));
  EXPECT_EQ(Start().code(), Code::kUnavailable);
  options_.child.factory = "fake:silent";
  options_.start_deadline = milliseconds(300);
  EXPECT_THAT(Start().message(), HasSubstr("gave no answer within 0.3 s"));
  options_.child.python = "/nowhere/python";
  EXPECT_EQ(Start().code(), Code::kInvalidArgument);
  EXPECT_THAT(Start().message(), HasSubstr("python is '/nowhere/python': cannot start"));
}

TEST_F(PythonReplicaTest, AFactoryMustAlwaysMakeTheSame) {
  options_.child.factory = "fake:fickle";
  ASSERT_EQ(Start(), OkStatus());
  EXPECT_EQ(replica_->Score({With(kCrash)}).code(), Code::kUnavailable);
  EXPECT_THAT(replica_->Score({Ones(1)}).message(), HasSubstr("made another scorer"));
  replica_.reset();
  options_.lanes = 2;
  std::filesystem::remove(folder_ / "first");
  EXPECT_THAT(Start().message(), HasSubstr("different scorers"));
}

// ---------------------------------------------------------------- under a Scorer

ScoreGroupPtr Submit(Scorer& scorer, std::vector<ScoredBatchPtr> batches) {
  auto group = std::make_shared<ScoreGroup>();
  group->batches = std::move(batches);
  std::promise<ScoreGroupPtr> answer;
  scorer.Submit(group, [&](ScoreGroupPtr g) { answer.set_value(std::move(g)); });
  return answer.get_future().get();
}

TEST_F(PythonReplicaTest, OnlyTheBatchThatKillsIsRejected) {
  ASSERT_EQ(Start(), OkStatus());
  Scorer scorer{ScorerOptions{}};
  scorer.Use(std::move(replica_));
  ASSERT_FALSE(scorer.Update(Weights(1, 2.0f)).has_value());
  const auto group = Submit(scorer, {Ones(1), With(kCrash), Ones(2)});
  EXPECT_THAT(group->batches[0]->scores.columns[0], ElementsAre(8.0f));
  EXPECT_EQ(group->batches[1]->decision.outcome, Outcome::kRejected);
  EXPECT_EQ(group->batches[1]->decision.code, ErrorCode::kScoringFailed);
  EXPECT_THAT(group->batches[1]->decision.text, HasSubstr("signal 11"));
  EXPECT_THAT(group->batches[2]->scores.columns[0], ElementsAre(8.0f, 8.0f));
}

TEST_F(PythonReplicaTest, ABatchAloneIsTriedAgainAfterADeathThatMayNotBeItsFault) {
  ASSERT_EQ(Start(), OkStatus());
  Scorer scorer{ScorerOptions{}};
  scorer.Use(std::move(replica_));
  const auto once = Submit(scorer, {With(kCrashOnce)});
  ASSERT_EQ(once->batches[0]->decision.outcome, Outcome::kUnspecified)
      << once->batches[0]->decision.text;
  EXPECT_THAT(once->batches[0]->scores.columns[0],
              ElementsAre(static_cast<float>(kCrashOnce) + 2.0f));
  EXPECT_EQ(Submit(scorer, {With(kCrash)})->batches[0]->decision.outcome, Outcome::kRejected);
}

TEST_F(PythonReplicaTest, ABatchAloneInAForwardThatHangsIsRejectedAtOnce) {
  options_.score_deadline = milliseconds(300);
  ASSERT_EQ(Start(), OkStatus());
  PythonReplica* const replica = replica_.get();
  Scorer scorer{ScorerOptions{}};
  scorer.Use(std::move(replica_));
  EXPECT_EQ(Submit(scorer, {With(kHang)})->batches[0]->decision.outcome, Outcome::kRejected);
  EXPECT_EQ(replica->deaths(), 1u);
  const auto group = Submit(scorer, {Ones(1), With(kHang)});
  EXPECT_THAT(group->batches[0]->scores.columns[0], ElementsAre(3.0f));
  EXPECT_EQ(group->batches[1]->decision.outcome, Outcome::kRejected);
  EXPECT_THAT(group->batches[1]->decision.text, HasSubstr("gave no answer within 0.3 s"));
}

TEST_F(PythonReplicaTest, ClosingTheScorerDoesNotWaitForAForward) {
  options_.score_deadline = std::chrono::hours(1);
  ASSERT_EQ(Start(), OkStatus());
  Scorer scorer{ScorerOptions{}};
  scorer.Use(std::move(replica_));
  auto hangs = std::async(std::launch::async, [&] { return Submit(scorer, {With(kHang)}); });
  while (!std::filesystem::exists(folder_ / "hangs")) std::this_thread::yield();
  scorer.Close();
  EXPECT_EQ(hangs.get()->batches[0]->decision.code, ErrorCode::kDraining);
}

}  // namespace
}  // namespace siftd
