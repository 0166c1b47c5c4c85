// SPDX-License-Identifier: Apache-2.0
// Batches that name the model version that is to decide them (deterministic mode).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/delivery/worker_core.h"

namespace siftd {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr PeerHandle kPublisher = 1;
constexpr PeerHandle kLoader = 2;

class WorkerVersions : public testing::Test {
 protected:
  WorkerVersions() : core_(Options()) {
    Hello loader = Greeting(Role::kLoader);
    loader.run = loader.loader_count = 1;
    loader.max_batch_bytes = 1 << 20;
    loader.has_job_spec = true;
    loader.job_spec.mode = Mode::kVerdicts;
    loader.job_spec.max_staleness_steps = 1;
    loader.job_spec.stale_unsifted = true;
    core_.OnMessage(kLoader, loader, now_);
    core_.OnMessage(kPublisher, Greeting(Role::kPublisher), now_);
    Apply(1, 10);
  }

  static WorkerCoreOptions Options() {
    WorkerCoreOptions options;
    options.artifact_sha256 = "abc";
    options.loader_window = 100;
    return options;
  }

  Hello Greeting(Role role) const {
    Hello hello;
    hello.session = session_;
    hello.role = role;
    hello.run = 1;
    return hello;
  }

  void Apply(std::uint64_t version, std::uint64_t step) {
    core_.OnModelAck(ModelAck{session_, 1, version, ModelState::kApplied}, step, "abc", now_);
    Collect();
  }

  void Offer(std::uint64_t seq, std::uint64_t required, std::uint64_t trainer_step = 0) {
    Candidates c;
    c.session = session_;
    c.run = 1;
    c.key = {0, 0, seq};
    c.sample_id = {seq};
    c.trainer_step = trainer_step;
    c.required_version = required;
    core_.OnMessage(kLoader, c, now_);
    Collect();
  }

  void Collect() {
    for (ScoredBatchPtr& batch : core_.TakeActions().admitted)
      admitted_.push_back(std::move(batch));
  }

  std::vector<std::uint64_t> Admitted() {
    std::vector<std::uint64_t> seq;
    for (const ScoredBatchPtr& batch : admitted_) seq.push_back(batch->candidates.key.seq);
    return seq;
  }

  const SessionId session_{1, 1};
  const MonoTime now_{};
  WorkerCore core_;
  std::vector<ScoredBatchPtr> admitted_;
};

TEST_F(WorkerVersions, ABatchWaitsForTheVersionThatItRequires) {
  Offer(0, 2);
  Offer(1, 1);
  Offer(2, 3);
  Offer(3, 0);
  EXPECT_THAT(Admitted(), ElementsAre(1, 3));
  Apply(2, 20);
  EXPECT_THAT(Admitted(), ElementsAre(1, 3, 0));
  Apply(3, 30);
  EXPECT_THAT(Admitted(), ElementsAre(1, 3, 0, 2));
}

TEST_F(WorkerVersions, ItsStepIsItsOwnWhateverTheWorkerHeard) {
  Offer(0, 0, 40);
  Offer(1, 1, 10);
  ASSERT_EQ(admitted_.size(), 2u);
  EXPECT_EQ(admitted_[0]->trainer_step, 40u);
  EXPECT_TRUE(admitted_[0]->pass_through);  // 40 is more than a step beyond the model's 10
  EXPECT_EQ(admitted_[1]->trainer_step, 10u);
  EXPECT_FALSE(admitted_[1]->pass_through);
}

TEST_F(WorkerVersions, ADrainingWorkerReturnsWhatWaitsForAVersion) {
  Offer(0, 2);
  core_.StartDrain("test", now_);
  std::vector<BatchKey> returned;
  for (const WorkerActions::Send& send : core_.TakeActions().sends) {
    if (const auto* r = std::get_if<Return>(&send.message)) returned = r->keys;
  }
  EXPECT_THAT(returned, ElementsAre(BatchKey{0, 0, 0}));
  EXPECT_TRUE(core_.drained());
  Apply(2, 20);
  EXPECT_THAT(Admitted(), IsEmpty());
}

}  // namespace
}  // namespace siftd
