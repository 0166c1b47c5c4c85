// SPDX-License-Identifier: Apache-2.0
// What a peer may not do to the worker's core: fill its memory, or leave it with a policy that
// can't be run.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <variant>

#include "pipeline/delivery/worker_core.h"

namespace siftd {
namespace {

constexpr PeerHandle kPeer = 1;

class WorkerHostile : public testing::Test {
 protected:
  static WorkerCoreOptions Options() {
    WorkerCoreOptions options;
    options.check_policy = [](const PolicyOptions& policy) {
      const auto* top_k = std::get_if<TopKOptions>(&policy.kind);
      return top_k == nullptr || top_k->keep > 0
                 ? OkStatus()
                 : InvalidArgument("top_k.keep is -1; allowed: (0, 1]");
    };
    return options;
  }

  // The Error that it is answered with, if it is.
  std::optional<ErrorMessage> Say(Message message, PeerHandle from = kPeer) {
    core_.OnMessage(from, std::move(message), now_);
    actions_ = core_.TakeActions();
    for (WorkerActions::Send& send : actions_.sends) {
      if (const auto* error = std::get_if<ErrorMessage>(&send.message)) return *error;
    }
    return std::nullopt;
  }

  static Hello Loader(std::uint64_t counter = 1) {
    Hello hello;
    hello.session = {7, counter};
    hello.role = Role::kLoader;
    hello.loader_count = 1;
    return hello;
  }

  const MonoTime now_{};
  WorkerCore core_{Options()};
  WorkerActions actions_;
};

// A bug once: nobody checked the policy that a trainer's Hello brings, and a history of no rows
// was read beyond its end.
TEST_F(WorkerHostile, APolicyOutsideItsRangesIsRefusedByItsField) {
  Hello trainer;
  trainer.session = {7, 1};
  trainer.role = Role::kTrainer;
  trainer.run = 1;
  trainer.world = 1;
  trainer.has_job_spec = true;
  trainer.job_spec.policy.kind = TopKOptions{-1};
  const auto error = Say(trainer);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code, ErrorCode::kJobMismatch);
  EXPECT_TRUE(error->fatal);
  EXPECT_EQ(error->text, "job_spec.policy: top_k.keep is -1; allowed: (0, 1]");
  trainer.job_spec.policy.kind = TopKOptions{0.5};
  EXPECT_FALSE(Say(trainer).has_value());
}

// A bug once: each peer that sent garbage and left was remembered for ever.
TEST_F(WorkerHostile, StrangersAreForgottenWhenThereAreMany) {
  constexpr PeerHandle kMany = 6000;
  std::size_t forgotten = 0;
  for (PeerHandle peer = kPeer; peer < kPeer + kMany; ++peer) {
    core_.OnMalformed(peer, InvalidArgument("frames is 1; allowed: 2 to 34"), now_);
    forgotten += core_.TakeActions().forget.size();
  }
  EXPECT_GE(forgotten, kMany - 5000);
}

TEST_F(WorkerHostile, WhoHasASeatIsNotForgottenForGarbage) {
  ASSERT_FALSE(Say(Loader()).has_value());
  core_.OnMalformed(kPeer, InvalidArgument("frames is 1; allowed: 2 to 34"), now_);
  EXPECT_TRUE(core_.TakeActions().forget.empty());
}

// A bug once: an end for each number that a loader could think of was kept.
TEST_F(WorkerHostile, EndsOfCountlessPassesEndTheSession) {
  ASSERT_FALSE(Say(Loader()).has_value());
  std::uint64_t pass = 0;
  std::optional<ErrorMessage> error;
  while (!error && pass < 100000) error = Say(EpochEnd{{7, 1}, 1, 0, pass++, 0, 1, false});
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code, ErrorCode::kCreditExceeded);
  EXPECT_LE(pass, 1000u);
  EXPECT_EQ(Say(Heartbeat{{7, 1}, 0, 0, 0, 0, 0})->code, ErrorCode::kHelloRequired);
  // Those that are known may be said again, in the next session too.
  ASSERT_FALSE(Say(Loader(2), kPeer + 1).has_value());
  EXPECT_FALSE(Say(EpochEnd{{7, 2}, 1, 0, 0, 0, 1, false}, kPeer + 1).has_value());
}

}  // namespace
}  // namespace siftd
