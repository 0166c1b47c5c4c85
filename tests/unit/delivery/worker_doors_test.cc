// SPDX-License-Identifier: Apache-2.0
// The worker's core: rights of keys, limits, and who is cut.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "pipeline/delivery/worker_core.h"

namespace siftd {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;

class WorkerDoors : public testing::Test {
 protected:
  void Start(bool keys = true) {
    options_.keys = keys;
    options_.artifact_sha256 = "abc";
    core_.emplace(options_);
  }

  static Hello Greeting(Role role, std::uint64_t incarnation = 7) {
    Hello hello;
    hello.session = {incarnation, 1};
    hello.role = role;
    hello.run = role == Role::kLoader ? 0 : 1;
    hello.world = 1;
    hello.loader_count = 4096;
    hello.max_batch_bytes = 1024;
    hello.job = "j";
    return hello;
  }

  // The answer to a Hello.
  Message Say(PeerHandle peer, const Hello& hello) {
    core_->OnMessage(peer, hello, now_);
    actions_ = core_->TakeActions();
    for (WorkerActions::Send& send : actions_.sends) {
      const bool answer = std::holds_alternative<Welcome>(send.message) ||
                          std::holds_alternative<ErrorMessage>(send.message);
      if (send.to == peer && answer) return std::move(send.message);
    }
    return StatusRequest{};
  }
  bool Welcomed(PeerHandle peer, const Hello& hello) {
    return std::holds_alternative<Welcome>(Say(peer, hello));
  }
  ErrorMessage Refusal(PeerHandle peer, const Hello& hello) {
    const Message answer = Say(peer, hello);
    const auto* error = std::get_if<ErrorMessage>(&answer);
    return error == nullptr ? ErrorMessage{} : *error;
  }
  void Let(PeerHandle peer, const std::string& key, RoleSet roles) {
    core_->OnPeer(peer, {key, "key of " + key, roles}, now_);
  }
  std::uint64_t Count(const std::string& what) const {
    const auto errors = core_->Snapshot(now_).errors;
    const auto it = errors.find(what);
    return it == errors.end() ? 0 : it->second;
  }

  WorkerCoreOptions options_;
  std::optional<WorkerCore> core_;
  WorkerActions actions_;
  MonoTime now_{};
};

TEST_F(WorkerDoors, AKeyOpensItsOwnRolesAlone) {
  Start();
  Let(1, "alice", RoleBit(Role::kLoader));
  for (const Role role : {Role::kTrainer, Role::kPublisher, Role::kMonitor}) {
    const ErrorMessage error = Refusal(1, Greeting(role));
    EXPECT_EQ(error.code, ErrorCode::kNotAllowed);
    EXPECT_TRUE(error.fatal);
    EXPECT_THAT(error.text,
                AllOf(HasSubstr(RoleName(role)), HasSubstr("'alice'"), HasSubstr("loader")));
    EXPECT_THAT(actions_.log, Contains(HasSubstr("'alice' refused")));
  }
  EXPECT_EQ(core_->Snapshot(now_).run, 0u) << "a refused publisher begins no run";
  EXPECT_TRUE(Welcomed(1, Greeting(Role::kLoader)));
  EXPECT_EQ(Count("NOT_ALLOWED"), 3u);
}

TEST_F(WorkerDoors, WithKeysAPeerOfUnknownRightsMayDoNothing) {
  Start();
  EXPECT_EQ(Refusal(1, Greeting(Role::kMonitor)).code, ErrorCode::kNotAllowed);
  Start(false);
  EXPECT_TRUE(Welcomed(1, Greeting(Role::kMonitor)));
}

TEST_F(WorkerDoors, ASessionEndsWithItsKey) {
  Start();
  Let(1, "alice", RoleBit(Role::kTrainer) | RoleBit(Role::kPublisher));
  ASSERT_TRUE(Welcomed(1, Greeting(Role::kTrainer)));
  Let(1, "alice", RoleBit(Role::kTrainer));
  EXPECT_TRUE(core_->TakeActions().sends.empty()) << "another of its roles is no matter";
  Let(1, "", 0);
  actions_ = core_->TakeActions();
  ASSERT_EQ(actions_.sends.size(), 1u);
  const auto& error = std::get<ErrorMessage>(actions_.sends[0].message);
  EXPECT_EQ(error.code, ErrorCode::kNotAllowed);
  EXPECT_TRUE(error.fatal);
  EXPECT_THAT(actions_.cut, Contains(1u));
  EXPECT_THAT(actions_.log, Contains(AllOf(HasSubstr("'alice'"), HasSubstr("taken away"))));
  EXPECT_TRUE(core_->Snapshot(now_).peers.empty());
}

TEST_F(WorkerDoors, GarbageIsAnsweredAFewTimesThenItsSenderIsCut) {
  options_.max_breaches = 3;
  Start(false);
  ASSERT_TRUE(Welcomed(1, Greeting(Role::kMonitor)));
  for (int i = 1; i <= 3; ++i) {
    core_->OnMalformed(2, InvalidArgument("nonsense"), now_);
    actions_ = core_->TakeActions();
    EXPECT_EQ(actions_.sends.size(), 1u);
    EXPECT_EQ(actions_.cut.size(), i == 3 ? 1u : 0u) << i;
  }
  EXPECT_THAT(actions_.cut, Contains(2u));
  EXPECT_THAT(actions_.log, Contains(AllOf(HasSubstr("cut"), HasSubstr("nonsense"))));
  EXPECT_EQ(Count("PEER_CUT"), 1u);
  EXPECT_EQ(Count("MALFORMED"), 3u);
  EXPECT_EQ(core_->Snapshot(now_).peers.size(), 1u) << "the others stay";
}

TEST_F(WorkerDoors, MessagesOfAnotherRoleCutToo) {
  options_.max_breaches = 2;
  Start(false);
  ASSERT_TRUE(Welcomed(1, Greeting(Role::kMonitor)));
  for (int i = 0; i < 2; ++i) core_->OnMessage(1, Ack{{7, 1}}, now_);
  actions_ = core_->TakeActions();
  EXPECT_THAT(actions_.cut, Contains(1u));
  EXPECT_TRUE(core_->Snapshot(now_).peers.empty());
}

TEST_F(WorkerDoors, WhoSendsWithoutCreditIsCutAtOnce) {
  Start(false);
  ASSERT_TRUE(Welcomed(1, Greeting(Role::kLoader)));
  Candidates batch;
  batch.session = {7, 1};
  batch.sample_id = {1};
  core_->OnMessage(1, batch, now_);
  actions_ = core_->TakeActions();
  EXPECT_EQ(std::get<ErrorMessage>(actions_.sends.at(0).message).code, ErrorCode::kCreditExceeded);
  EXPECT_THAT(actions_.cut, Contains(1u));
  EXPECT_EQ(Count("PEER_CUT"), 1u);
}

TEST_F(WorkerDoors, HellosOfOneOriginAreCounted) {
  options_.max_hellos = 1;  // ten at once
  Start();
  PeerHandle peer = 0;
  for (int i = 0; i < 10; ++i) {
    Let(++peer, "alice", kAllRoles);
    EXPECT_TRUE(Welcomed(peer, Greeting(Role::kMonitor)));
  }
  Let(++peer, "alice", kAllRoles);
  const ErrorMessage error = Refusal(peer, Greeting(Role::kMonitor));
  EXPECT_EQ(error.code, ErrorCode::kNotAllowed);
  EXPECT_FALSE(error.fatal) << "later it may";
  EXPECT_THAT(error.text, HasSubstr("max_hellos, 1 a second"));
  Let(++peer, "bob", kAllRoles);
  EXPECT_TRUE(Welcomed(peer, Greeting(Role::kMonitor))) << "others are not held up";
  now_ += std::chrono::seconds(1);
  Let(++peer, "alice", kAllRoles);
  EXPECT_TRUE(Welcomed(peer, Greeting(Role::kMonitor)));
}

TEST_F(WorkerDoors, ThereIsRoomForSoManyAndMonitorsTakeNoneOfIt) {
  options_.max_peers = 4;
  Start(false);
  const auto loader = [](std::uint32_t index) {
    Hello hello = Greeting(Role::kLoader);
    hello.loader_index = index;
    return hello;
  };
  ASSERT_TRUE(Welcomed(100, Greeting(Role::kMonitor)));
  const ErrorMessage monitor = Refusal(101, Greeting(Role::kMonitor));
  EXPECT_EQ(monitor.code, ErrorCode::kNotAllowed);
  EXPECT_THAT(monitor.text, HasSubstr("1 monitors are connected; allowed: 1"));
  for (std::uint32_t i = 0; i < 4; ++i) EXPECT_TRUE(Welcomed(i + 1, loader(i)));
  const ErrorMessage full = Refusal(9, loader(4));
  EXPECT_FALSE(full.fatal);
  EXPECT_THAT(full.text, HasSubstr("4 peers are connected; allowed: 4"));
  Hello again = loader(3);
  again.session.counter = 2;
  EXPECT_TRUE(Welcomed(10, again)) << "a place of its own";
}

TEST_F(WorkerDoors, StrangersAreForgottenBeforeTheyFillTheMemory) {
  Start(false);
  ASSERT_TRUE(Welcomed(1, Greeting(Role::kLoader)));
  std::size_t forgotten = 0;
  for (PeerHandle peer = 2; peer < 10002; ++peer) {
    core_->OnPeer(peer, {"", "10.0.0.1", kAllRoles}, now_);
    for (const PeerHandle gone : core_->TakeActions().forget) {
      EXPECT_NE(gone, 1u);
      ++forgotten;
    }
  }
  EXPECT_GT(forgotten, 5000u);
  EXPECT_EQ(core_->Snapshot(now_).peers.size(), 1u);
}

TEST_F(WorkerDoors, APinnedArtifactIsTheOnlyOne) {
  options_.artifact_upload = true;
  options_.artifact_pinned = std::string(64, 'a');
  Start();
  Let(1, "alice", RoleBit(Role::kPublisher));
  ASSERT_TRUE(Welcomed(1, Greeting(Role::kPublisher)));
  ModelBegin begin;
  begin.session = {7, 1};
  begin.run = 1;
  begin.kind = ModelKind::kArtifact;
  begin.sha256 = std::string(32, '\xbb');
  core_->OnMessage(1, begin, now_);
  actions_ = core_->TakeActions();
  EXPECT_TRUE(actions_.model_work.empty());
  const auto& ack = std::get<ModelAck>(actions_.sends.at(0).message);
  EXPECT_EQ(ack.code, ErrorCode::kArtifactRefused);
  EXPECT_THAT(ack.text, AllOf(HasSubstr(std::string(64, 'a')), HasSubstr(std::string(64, 'b'))));
  begin.sha256 = std::string(32, '\xaa');
  core_->OnMessage(1, begin, now_);
  EXPECT_EQ(core_->TakeActions().model_work.size(), 1u);
}

}  // namespace
}  // namespace siftd
