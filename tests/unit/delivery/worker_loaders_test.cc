// SPDX-License-Identifier: Apache-2.0
// The worker's core and the loaders of one job after the other.
#include <gtest/gtest.h>

#include <optional>

#include "pipeline/delivery/worker_core.h"

namespace siftd {
namespace {

constexpr PeerHandle kTrainer = 1;
constexpr PeerHandle kLoader = 2;

class WorkerLoaders : public testing::Test {
 protected:
  // The Error that it is answered with, if it is.
  std::optional<ErrorMessage> Say(PeerHandle from, Message message) {
    core_.OnMessage(from, std::move(message), now_);
    for (WorkerActions::Send& send : core_.TakeActions().sends) {
      if (const auto* error = std::get_if<ErrorMessage>(&send.message)) return *error;
    }
    return std::nullopt;
  }

  static Hello Loader(std::uint64_t incarnation, std::uint32_t count) {
    Hello hello;
    hello.session = {incarnation, 1};
    hello.role = Role::kLoader;
    hello.loader_count = count;
    return hello;
  }

  void StartJob() {
    Hello trainer;
    trainer.session = session_;
    trainer.role = Role::kTrainer;
    trainer.run = 1;
    trainer.world = 1;
    trainer.has_job_spec = true;
    ASSERT_FALSE(Say(kTrainer, trainer).has_value());
    ASSERT_FALSE(Say(kLoader, Loader(8, 1)).has_value());
  }

  const SessionId session_{7, 1};
  const MonoTime now_{};
  WorkerCore core_{WorkerCoreOptions{}};
};

TEST_F(WorkerLoaders, AnotherCountIsRefusedWhileTheJobRuns) {
  StartJob();
  const auto error = Say(kLoader + 1, Loader(9, 2));
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code, ErrorCode::kJobMismatch);
  EXPECT_TRUE(error->fatal);
}

// A bug once: the loaders of the next job had to come after its trainer.
TEST_F(WorkerLoaders, TheNextJobsLoadersMayComeBeforeItsTrainer) {
  StartJob();
  ASSERT_FALSE(Say(kTrainer, Goodbye{session_, GoodbyeReason::kDone, 1}).has_value());
  EXPECT_FALSE(Say(kLoader + 1, Loader(9, 2)).has_value());
  Hello changed = Loader(10, 2);
  changed.fingerprint.data_size = 5;
  EXPECT_FALSE(Say(kLoader + 2, changed).has_value());
}

}  // namespace
}  // namespace siftd
