// SPDX-License-Identifier: Apache-2.0
// Router and dealers over real sockets on free ports.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "pipeline/base/thread.h"
#include "pipeline/net/dealer_pool.h"
#include "pipeline/net/router_endpoint.h"

namespace siftd {
namespace {

constexpr auto kDeadline = std::chrono::seconds(20);

Frames Message(std::initializer_list<std::string> parts) {
  Frames frames;
  for (const std::string& part : parts) frames.push_back(Frame::Adopt(std::string(part)));
  return frames;
}

std::vector<std::string> Text(const Frames& frames) {
  std::vector<std::string> text;
  for (const Frame& frame : frames) text.emplace_back(frame.view());
  return text;
}

class EndpointsTest : public testing::Test {
 protected:
  void SetUp() override {
    RouterOptions options;
    options.endpoint = Endpoint();
    options.max_frame_bytes = 4 << 20;
    router_ = std::move(RouterEndpoint::Bind(options)).value();
    ASSERT_TRUE(pool_.Add(router_->BoundEndpoint()).ok());
  }

  virtual std::string Endpoint() const { return "tcp://127.0.0.1:0"; }

  void Echo(const std::string& large);

  void SendWhenConnected(const Frames& frames, std::size_t worker = 0) {
    const MonoTime deadline = Now() + kDeadline;
    while (pool_.Send(worker, frames) != DealerPool::Sent::kSent) {
      ASSERT_LT(Now(), deadline) << "no connection";
      pool_.Poll(milliseconds(10), wakeup_);
    }
  }

  RouterEndpoint::Received ReceiveAtRouter() {
    RouterEndpoint::Received received;
    const MonoTime deadline = Now() + kDeadline;
    while (!router_->Receive(&received)) {
      if (Now() > deadline) {
        ADD_FAILURE() << "nothing came";
        break;
      }
      router_->Poll(milliseconds(50), wakeup_);
    }
    return received;
  }

  Wakeup wakeup_;
  std::unique_ptr<RouterEndpoint> router_;
  DealerPool pool_;
};

TEST_F(EndpointsTest, BoundEndpointHasTheRealPort) {
  EXPECT_THAT(router_->BoundEndpoint(), testing::MatchesRegex("tcp://127\\.0\\.0\\.1:[1-9][0-9]*"));
}

void EndpointsTest::Echo(const std::string& large) {
  SendWhenConnected(Message({"head", "", large}));
  const auto received = ReceiveAtRouter();
  EXPECT_EQ(Text(received.frames), (std::vector<std::string>{"head", "", large}));
  ASSERT_EQ(router_->Send(received.peer, received.frames), RouterEndpoint::Sent::kSent);
  DealerPool::Received back;
  const MonoTime deadline = Now() + kDeadline;
  while (!pool_.Receive(&back)) {
    ASSERT_LT(Now(), deadline);
    pool_.Poll(milliseconds(50), wakeup_);
  }
  EXPECT_EQ(Text(back.frames), (std::vector<std::string>{"head", "", large}));
}

TEST_F(EndpointsTest, MessagesArriveWholeBothWays) {
  Echo(std::string(3 << 20, 'x'));  // shared, not copied
}

class IpcEndpointsTest : public EndpointsTest {
 protected:
  ~IpcEndpointsTest() override { unlink(path_.c_str()); }
  std::string Endpoint() const override { return "ipc://" + path_; }

  const std::string path_ = testing::TempDir() + "siftd-net-" + std::to_string(getpid()) + ".sock";
};

TEST_F(IpcEndpointsTest, MessagesArriveWholeBothWaysByAPath) {
  EXPECT_EQ(router_->BoundEndpoint(), "ipc://" + path_);
  Echo(std::string(3 << 20, 'x'));
}

TEST_F(EndpointsTest, AReopenedDealerIsAnotherPeer) {
  SendWhenConnected(Message({"a", "b"}));
  const std::uint64_t first = ReceiveAtRouter().peer;
  pool_.Reopen(0);
  SendWhenConnected(Message({"a", "b"}));
  EXPECT_NE(ReceiveAtRouter().peer, first);
}

TEST_F(EndpointsTest, AGoneOrForgottenPeerIsUnreachable) {
  EXPECT_EQ(router_->Send(12345, Message({"x"})), RouterEndpoint::Sent::kUnreachable);
  SendWhenConnected(Message({"a", "b"}));
  const std::uint64_t peer = ReceiveAtRouter().peer;
  router_->Forget(peer);
  EXPECT_EQ(router_->Send(peer, Message({"x"})), RouterEndpoint::Sent::kUnreachable);
}

TEST_F(EndpointsTest, TooManyFramesAreReadAndLetGo) {
  Frames many;
  for (int i = 0; i < 60; ++i) many.push_back(Frame::Adopt(std::string("f")));
  SendWhenConnected(many);
  SendWhenConnected(Message({"next", "one"}));
  const auto received = ReceiveAtRouter();
  EXPECT_TRUE(received.too_many_frames);
  EXPECT_EQ(received.frames.size(), 34u);
  EXPECT_EQ(Text(ReceiveAtRouter().frames), (std::vector<std::string>{"next", "one"}));
}

TEST_F(EndpointsTest, AnOversizeFrameCutsItsSenderOnly) {
  const std::size_t other = *pool_.Add(router_->BoundEndpoint());
  SendWhenConnected(Message({"a", std::string(5 << 20, 'x')}));
  SendWhenConnected(Message({"still", "here"}), other);
  EXPECT_EQ(Text(ReceiveAtRouter().frames), (std::vector<std::string>{"still", "here"}));
}

// Sends take in what happened to their socket; a message must not be lost sight of by that, nor one
// that was left over.
TEST_F(EndpointsTest, EveryMessageIsNoticedWhateverIsDoneMeanwhile) {
  constexpr std::size_t kMessages = 2000;
  ASSERT_TRUE(pool_.Add(router_->BoundEndpoint()).ok());
  Thread echo("echo", [this] {
    for (std::size_t i = 0; i < kMessages; ++i) {
      const auto received = ReceiveAtRouter();
      for (int twice = 0; twice < 2; ++twice) {
        EXPECT_EQ(router_->Send(received.peer, received.frames), RouterEndpoint::Sent::kSent);
      }
    }
  });
  std::mt19937 rng(3);
  std::size_t sent = 0;
  std::size_t got = 0;
  while (got < 2 * kMessages) {
    for (auto n = rng() % 4; n > 0 && sent < kMessages && 2 * sent < got + 50; --n, ++sent)
      SendWhenConnected(Message({"a", "b"}), rng() % 2);
    if (got == 2 * sent) continue;
    pool_.Poll(kDeadline, wakeup_);
    DealerPool::Received back;
    const std::size_t most = got + 1 + rng() % 3;
    const std::size_t before = got;
    while (got < most && pool_.Receive(&back)) ++got;
    ASSERT_GT(got, before);
  }
  echo.Join();
}

TEST_F(EndpointsTest, AReopenedDealerHears) {
  SendWhenConnected(Message({"a", "b"}));
  (void)ReceiveAtRouter();
  pool_.Reopen(0);
  Echo("again");
}

TEST_F(EndpointsTest, WakeEndsAPoll) {
  Thread waker("wake", [this] { wakeup_.Wake(); });
  router_->Poll(std::chrono::hours(1), wakeup_);
  wakeup_.Clear();
  waker.Join();
  wakeup_.Wake();
  pool_.Poll(std::chrono::hours(1), wakeup_);
}

TEST(RouterEndpoint, OtherHostsAreRefusedWithoutAWord) {
  RouterOptions options;
  options.endpoint = "tcp://0.0.0.0:0";
  EXPECT_THAT(RouterEndpoint::Bind(options).status().message(),
              testing::HasSubstr("insecure_plaintext: true"));
  options.insecure_plaintext = true;
  EXPECT_TRUE(RouterEndpoint::Bind(options).ok());
}

TEST(RouterEndpoint, AnAddressInUseIsUnavailable) {
  const auto first = std::move(RouterEndpoint::Bind({})).value();
  RouterOptions options;
  options.endpoint = first->BoundEndpoint();
  EXPECT_EQ(RouterEndpoint::Bind(options).status().code(), Code::kUnavailable);
}

TEST(DealerPool, WithoutAPeerNothingIsSent) {
  DealerPool pool;
  ASSERT_TRUE(pool.Add("tcp://127.0.0.1:1").ok());
  EXPECT_EQ(pool.Send(0, Message({"x"})), DealerPool::Sent::kNotNow);
  EXPECT_FALSE(pool.Add("nonsense").ok());
}

}  // namespace
}  // namespace siftd
