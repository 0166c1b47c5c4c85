// SPDX-License-Identifier: Apache-2.0
// What the worker's core holds back from the graph: suspects of several loaders, only one of which
// is here at a time, so that a death points at it; batches that came before their run's weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/delivery/worker_core.h"

namespace siftd {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr PeerHandle kPublisher = 1;
constexpr PeerHandle kTrainer = 2;
constexpr PeerHandle kLoaders = 3;  // and 4

class WorkerSuspects : public testing::Test {
 protected:
  WorkerSuspects() : core_(Options()) {
    Hello trainer = Greeting(Role::kTrainer);
    trainer.run = trainer.world = 1;
    trainer.has_job_spec = true;
    trainer.job_spec.mode = Mode::kSamples;
    core_.OnMessage(kTrainer, trainer, now_);
    Hello publisher = Greeting(Role::kPublisher);
    publisher.run = 1;
    core_.OnMessage(kPublisher, publisher, now_);
    ModelBegin begin;
    begin.session = session_;
    begin.run = begin.version = 1;
    begin.kind = ModelKind::kFull;
    core_.OnMessage(kPublisher, begin, now_);
    core_.OnModelAck(ModelAck{session_, 1, 1, ModelState::kApplied}, 10, "abc", now_);
    for (std::uint32_t index = 0; index < 2; ++index) {
      Hello loader = Greeting(Role::kLoader);
      loader.loader_index = index;
      loader.loader_count = 2;
      loader.max_batch_bytes = 1 << 20;
      core_.OnMessage(kLoaders + index, loader, now_);
      Position position;
      position.session = session_;
      position.run = position.world = 1;
      position.loader = index;
      core_.OnMessage(kTrainer, position, now_);
    }
    core_.TakeActions();
  }

  static WorkerCoreOptions Options() {
    WorkerCoreOptions options;
    options.artifact_sha256 = "abc";
    return options;
  }

  Hello Greeting(Role role) const {
    Hello hello;
    hello.session = session_;
    hello.role = role;
    return hello;
  }

  // Batch 0 of the loader. What was admitted goes to `graph_`; the keys that were returned.
  std::vector<BatchKey> Send(std::uint32_t loader, bool suspect) {
    Candidates c;
    c.session = session_;
    c.run = 1;
    c.key = {loader, 0, 0};
    c.sample_id = {loader};
    c.suspect = suspect;
    core_.OnMessage(kLoaders + loader, c, now_);
    return Collect();
  }

  std::vector<BatchKey> Collect() {
    std::vector<BatchKey> returned;
    WorkerActions actions = core_.TakeActions();
    for (const ScoredBatchPtr& batch : actions.admitted) graph_.push_back(batch);
    for (const WorkerActions::Send& send : actions.sends) {
      const auto* r = std::get_if<Return>(&send.message);
      if (r == nullptr) continue;
      EXPECT_EQ(r->reason, ReturnReason::kLaneHung);
      returned.insert(returned.end(), r->keys.begin(), r->keys.end());
    }
    return returned;
  }

  void DecideOne() {
    const ScoredBatchPtr batch = graph_.front();
    graph_.erase(graph_.begin());
    batch->decision.outcome = Outcome::kDecided;
    batch->decision.rows = 1;
    core_.OnDecided(batch, now_);
    EXPECT_THAT(Collect(), IsEmpty());
  }

  const SessionId session_{7, 1};
  const MonoTime now_{};
  WorkerCore core_;
  std::vector<ScoredBatchPtr> graph_;
};

TEST_F(WorkerSuspects, AnotherLoadersIsGivenBackWhileOneIsScored) {
  EXPECT_THAT(Send(0, true), IsEmpty());
  ASSERT_EQ(graph_.size(), 1u);
  EXPECT_THAT(Send(1, true), ElementsAre(BatchKey{1, 0, 0}));
  DecideOne();
  EXPECT_THAT(Send(1, true), IsEmpty());
  EXPECT_EQ(graph_.size(), 1u);
}

TEST_F(WorkerSuspects, AnotherLoadersIsGivenBackWhileOneWaits) {
  EXPECT_THAT(Send(0, false), IsEmpty());
  Candidates waits;
  waits.session = session_;
  waits.run = 1;
  waits.key = {0, 0, 1};
  waits.sample_id = {2};
  waits.suspect = true;
  core_.OnMessage(kLoaders, waits, now_);
  EXPECT_THAT(Collect(), IsEmpty());
  ASSERT_EQ(graph_.size(), 1u) << "it waits until the graph is empty";
  EXPECT_THAT(Send(1, true), ElementsAre(BatchKey{1, 0, 0}));
  DecideOne();
  EXPECT_EQ(graph_.size(), 1u) << "now it is scored";
}

// Bug: batches of a new run that were sent on credit of the run before were scored on that one's
// weights.
TEST_F(WorkerSuspects, BatchesOfANewRunWaitForItsWeights) {
  Hello trainer = Greeting(Role::kTrainer);
  trainer.session.counter = 2;
  trainer.run = 2;
  trainer.world = 1;
  trainer.has_job_spec = true;
  trainer.job_spec.mode = Mode::kSamples;
  core_.OnMessage(kLoaders + 2, trainer, now_);
  Hello publisher = Greeting(Role::kPublisher);
  publisher.session.counter = 2;
  publisher.run = 2;
  core_.OnMessage(kLoaders + 3, publisher, now_);
  Candidates c;
  c.session = session_;
  c.run = 2;
  c.sample_id = {1};
  core_.OnMessage(kLoaders, c, now_);
  EXPECT_THAT(Collect(), IsEmpty());
  EXPECT_THAT(graph_, IsEmpty());
  ModelBegin begin;
  begin.session = publisher.session;
  begin.run = 2;
  begin.version = 1;
  begin.kind = ModelKind::kFull;
  core_.OnMessage(kLoaders + 3, begin, now_);
  core_.OnModelAck(ModelAck{publisher.session, 2, 1, ModelState::kApplied}, 0, "abc", now_);
  EXPECT_THAT(Collect(), IsEmpty());
  EXPECT_EQ(graph_.size(), 1u);
}

}  // namespace
}  // namespace siftd
