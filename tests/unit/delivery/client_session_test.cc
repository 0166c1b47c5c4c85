// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/client_session.h"

#include <gtest/gtest.h>

namespace siftd {
namespace {

constexpr MonoTime kStart{};
constexpr Duration kHelloDeadline = milliseconds(5000);

Welcome WelcomeTo(const SessionId& id) {
  Welcome w;
  w.session = id;
  w.heartbeat_ms = 1000;
  w.liveness_ms = 5000;
  return w;
}

ErrorMessage ErrorTo(const SessionId& id, ErrorCode code, bool fatal = true,
                     std::uint64_t current = 0) {
  ErrorMessage e;
  e.session = id;
  e.code = code;
  e.text = "text";
  e.fatal = fatal;
  e.current = current;
  return e;
}

class ClientSessionTest : public testing::Test {
 protected:
  SessionId Open(MonoTime now) {
    const auto greeting = session.Greet(now);
    EXPECT_TRUE(greeting);
    EXPECT_TRUE(session.OnWelcome(WelcomeTo(greeting->id), now));
    return greeting->id;
  }

  ClientIdentity identity{100, false};
  ClientSession session{&identity, kHelloDeadline, 1};
};

TEST_F(ClientSessionTest, GreetsAtOnceOnTheFirstSocket) {
  const auto greeting = session.Greet(kStart);
  ASSERT_TRUE(greeting);
  EXPECT_FALSE(greeting->reopen);
  EXPECT_EQ(greeting->id, (SessionId{100, 1}));
  EXPECT_FALSE(session.Greet(kStart));
  EXPECT_FALSE(session.open());
  EXPECT_TRUE(session.OnWelcome(WelcomeTo(greeting->id), kStart));
  EXPECT_TRUE(session.open());
}

// Bug: each attempt opened a new socket and spoke at once, before it could be connected, for ever.
TEST_F(ClientSessionTest, AHelloThatFindsNoConnectionIsSaidAgainOnTheSameSocket) {
  const auto first = session.Greet(kStart);
  session.NotSent(kStart);
  EXPECT_FALSE(session.Greet(kStart)) << "not at once";
  const auto again = session.Greet(kStart + milliseconds(50));
  ASSERT_TRUE(again);
  EXPECT_FALSE(again->reopen);
  EXPECT_GT(again->id, first->id);
  session.Lose(kStart + milliseconds(60));
  const auto anew = session.Greet(kStart + milliseconds(300));
  ASSERT_TRUE(anew);
  EXPECT_TRUE(anew->reopen);
  EXPECT_EQ(session.down_since(), kStart) << "none of it was a session";
}

TEST_F(ClientSessionTest, ALostSessionComesBackWithAHigherIdOnANewSocket) {
  const SessionId first = Open(kStart);
  session.Lose(kStart);
  EXPECT_FALSE(session.Greet(kStart)) << "backs off";
  const auto again = session.Greet(kStart + milliseconds(200));
  ASSERT_TRUE(again);
  EXPECT_TRUE(again->reopen);
  EXPECT_GT(again->id, first);
  EXPECT_FALSE(session.OnWelcome(WelcomeTo(first), kStart)) << "of the session before";
  EXPECT_FALSE(session.Heard(first, kStart));
}

TEST_F(ClientSessionTest, BackoffGrowsToItsBoundAndAWelcomeResetsIt) {
  MonoTime now = kStart;
  Duration longest{};
  for (int i = 0; i < 12; ++i) {
    while (!session.Greet(now)) now += milliseconds(10);
    const MonoTime lost = now;
    session.Lose(now);
    MonoTime due = now;
    while (session.state() == ClientSession::State::kWaiting && !session.Greet(due))
      due += milliseconds(10);
    const Duration wait = due - lost;
    EXPECT_GE(wait, milliseconds(100));
    EXPECT_LE(wait, milliseconds(5010));
    longest = std::max(longest, wait);
    now = due;
    session.Lose(now);
  }
  EXPECT_GE(longest, milliseconds(2500));
  while (!session.Greet(now)) now += milliseconds(10);
  ASSERT_TRUE(session.OnWelcome(WelcomeTo(session.id()), now));
  session.Lose(now);
  EXPECT_TRUE(session.Greet(now + milliseconds(160)));
}

TEST_F(ClientSessionTest, ExpiresWithoutWelcomeAndInSilence) {
  ASSERT_TRUE(session.Greet(kStart));
  EXPECT_EQ(session.Expired(kStart + kHelloDeadline), "");
  EXPECT_NE(session.Expired(kStart + kHelloDeadline + milliseconds(1)), "");
  ASSERT_TRUE(session.OnWelcome(WelcomeTo(session.id()), kStart));
  EXPECT_TRUE(session.Heard(session.id(), kStart + milliseconds(3000)));
  EXPECT_EQ(session.Expired(kStart + milliseconds(8000)), "");
  EXPECT_NE(session.Expired(kStart + milliseconds(8001)), "");
}

TEST_F(ClientSessionTest, HeartbeatsFollowSilenceOfOurOwn) {
  Open(kStart);
  EXPECT_FALSE(session.HeartbeatDue(kStart + milliseconds(999)));
  EXPECT_TRUE(session.HeartbeatDue(kStart + milliseconds(1000)));
  session.Sent(kStart + milliseconds(900));
  EXPECT_FALSE(session.HeartbeatDue(kStart + milliseconds(1000)));
}

TEST_F(ClientSessionTest, HelloRequiredReconnects) {
  const SessionId id = Open(kStart);
  EXPECT_EQ(session.OnError(ErrorTo(id, ErrorCode::kHelloRequired), kStart),
            ClientSession::Effect::kLost);
  EXPECT_FALSE(session.open());
}

TEST_F(ClientSessionTest, AnErrorOfAnOlderSessionIsIgnored) {
  Open(kStart);
  EXPECT_EQ(session.OnError(ErrorTo({100, 77}, ErrorCode::kHelloRequired), kStart),
            ClientSession::Effect::kNone);
  EXPECT_TRUE(session.open());
}

TEST_F(ClientSessionTest, SupersededBeforeAnyWelcomeTakesTheNextIncarnation) {
  const auto greeting = session.Greet(kStart);
  EXPECT_EQ(session.OnError(ErrorTo(greeting->id, ErrorCode::kSuperseded, true, 500), kStart),
            ClientSession::Effect::kLost);
  const auto again = session.Greet(kStart);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->id.incarnation, 501u);
}

TEST_F(ClientSessionTest, SupersededAfterAWelcomeEndsWithWhoReplacedIt) {
  Open(kStart);
  session.Lose(kStart);
  const auto greeting = session.Greet(kStart + milliseconds(200));
  ASSERT_TRUE(greeting);
  EXPECT_EQ(session.OnError(ErrorTo(greeting->id, ErrorCode::kSuperseded, true, 500), kStart),
            ClientSession::Effect::kFailed);
  EXPECT_EQ(session.failure().code(), Code::kFailedPrecondition);
  EXPECT_FALSE(session.Greet(kStart + std::chrono::hours(1)));
}

TEST_F(ClientSessionTest, AMismatchIsFinalADrainingWorkerIsNot) {
  auto greeting = session.Greet(kStart);
  EXPECT_EQ(session.OnError(ErrorTo(greeting->id, ErrorCode::kDraining, false), kStart),
            ClientSession::Effect::kLost);
  greeting = session.Greet(kStart + milliseconds(200));
  ASSERT_TRUE(greeting);
  EXPECT_EQ(session.OnError(ErrorTo(greeting->id, ErrorCode::kJobMismatch), kStart),
            ClientSession::Effect::kFailed);
}

TEST_F(ClientSessionTest, AWorkersAbsurdIntervalsAreBounded) {
  const auto greeting = session.Greet(kStart);
  Welcome welcome = WelcomeTo(greeting->id);
  welcome.heartbeat_ms = 0;
  welcome.liveness_ms = 0;
  ASSERT_TRUE(session.OnWelcome(welcome, kStart));
  EXPECT_FALSE(session.HeartbeatDue(kStart + milliseconds(9)));
  EXPECT_EQ(session.Expired(kStart + milliseconds(20)), "");
}

// A bug once: 1 more than the largest number is 0, and the client said Hello without end.
TEST_F(ClientSessionTest, ASeatThatNobodyCanGoAboveIsGivenUp) {
  for (const std::uint64_t current : {UINT64_MAX, kMaxIncarnation}) {
    ClientIdentity mine{100, false};
    ClientSession refused(&mine, kHelloDeadline, 1);
    const auto greeting = refused.Greet(kStart);
    EXPECT_EQ(refused.OnError(ErrorTo(greeting->id, ErrorCode::kSuperseded, true, current), kStart),
              ClientSession::Effect::kFailed);
    EXPECT_EQ(mine.incarnation, 100u);
  }
}

}  // namespace
}  // namespace siftd
