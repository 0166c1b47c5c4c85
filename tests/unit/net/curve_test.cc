// SPDX-License-Identifier: Apache-2.0
// Router and dealers with keys: who gets in, as what, and what the others are told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "pipeline/net/dealer_pool.h"
#include "pipeline/net/router_endpoint.h"
#include "tests/unit/net/key_folder.h"

namespace siftd {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr auto kDeadline = std::chrono::seconds(20);

Frames Message(const std::string& text) {
  return {Frame::Adopt(std::string("head")), Frame::Adopt(std::string(text))};
}

// One client of one worker.
struct Client {
  explicit Client(const std::string& endpoint) { EXPECT_TRUE(pool.Add(endpoint).ok()); }
  Client(const std::string& endpoint, ClientKeys keys) {
    pool.UseKeys(std::move(keys));
    EXPECT_TRUE(pool.Add(endpoint).ok());
  }
  bool Send(const std::string& text) {
    return pool.Send(0, Message(text)) == DealerPool::Sent::kSent;
  }
  void Poll() { pool.Poll(milliseconds(20), wakeup); }

  DealerPool pool;
  Wakeup wakeup;
};

class CurveTest : public testing::Test {
 protected:
  void SetUp() override {
    options_.key_file = keys_.worker_secret();
    options_.client_keys = keys_.client_keys();
    options_.log = [this](const std::string& line) {
      const std::lock_guard lock(mu_);
      log_ += line + "\n";
    };
  }
  void Bind() { router_ = std::move(RouterEndpoint::Bind(options_)).value(); }

  // Until `condition`, with both sides at work.
  static void Until(const char* what, const std::function<bool()>& condition) {
    const MonoTime deadline = Now() + kDeadline;
    while (!condition()) ASSERT_LT(Now(), deadline) << what;
  }

  void SendWhenConnected(Client& client, const std::string& text) {
    Until("a connection", [&] {
      client.Poll();
      return client.Send(text);
    });
  }
  RouterEndpoint::Received Receive() {
    RouterEndpoint::Received received;
    Until("a message", [&] {
      router_->Poll(milliseconds(20), wakeup_);
      return router_->Receive(&received);
    });
    return received;
  }
  DealerPool::Refused RefusalOf(Client& client, bool for_good = true) {
    // Which side notices first is chance; one of the attempts tells. Made anew, they are not put
    // off for longer and longer.
    DealerPool::Refused found;
    Until("a refusal", [&] {
      client.Poll();
      EXPECT_FALSE(client.Send("x"));
      for (DealerPool::Refused& refused : client.pool.TakeRefused()) {
        found = std::move(refused);
        if (for_good && !found.for_good) client.pool.Reopen(0);
      }
      return !found.why.empty() && (found.for_good || !for_good);
    });
    return found;
  }
  ClientKeys Keys(const std::string& name) const {
    return std::move(ReadClientKeys(keys_.path() + "/" + name + ".key_secret", "")).value();
  }
  std::string Log() {
    const std::lock_guard lock(mu_);
    return log_;
  }

  const KeyFolder keys_;
  RouterOptions options_;
  std::mutex mu_;
  std::string log_;
  std::unique_ptr<RouterEndpoint> router_;
  Wakeup wakeup_;
};

TEST_F(CurveTest, MessagesArriveWholeBothWaysAndTellWhoSentThem) {
  keys_.AddClient("alice", {Role::kLoader, Role::kPublisher});
  Bind();
  Client client(router_->BoundEndpoint(), Keys("alice"));
  const std::string large(3 << 20, 'x');
  SendWhenConnected(client, large);
  const auto received = Receive();
  EXPECT_TRUE(received.fresh);
  EXPECT_EQ(received.frames[1].view(), large);
  const PeerRights rights = router_->Rights(received.peer);
  EXPECT_EQ(rights.key, "alice");
  EXPECT_EQ(rights.origin, Keys("alice").own.public_key);
  EXPECT_TRUE(rights.Allows(Role::kLoader) && rights.Allows(Role::kPublisher));
  EXPECT_FALSE(rights.Allows(Role::kTrainer) || rights.Allows(Role::kMonitor));
  ASSERT_EQ(router_->Send(received.peer, received.frames), RouterEndpoint::Sent::kSent);
  DealerPool::Received back;
  Until("the answer", [&] {
    client.Poll();
    return client.pool.Receive(&back);
  });
  EXPECT_EQ(back.frames[1].view(), large);
  SendWhenConnected(client, "again");
  EXPECT_FALSE(Receive().fresh);
  EXPECT_EQ(router_->refused_handshakes(), 0u);
  EXPECT_TRUE(client.pool.TakeRefused().empty());
}

TEST_F(CurveTest, AnotherHostMayBeServedWithKeys) {
  options_.endpoint = "tcp://0.0.0.0:0";
  EXPECT_TRUE(RouterEndpoint::Bind(options_).ok());
  options_.key_file.clear();
  EXPECT_THAT(RouterEndpoint::Bind(options_).status().message(), HasSubstr("key_file is ''"));
}

TEST_F(CurveTest, AKeyThatTheWorkerDoesNotKnowIsRefusedWithWhatToDo) {
  keys_.AddClient("alice", {});
  Bind();
  Client client(router_->BoundEndpoint(), Keys("alice"));
  const auto refused = RefusalOf(client);
  EXPECT_TRUE(refused.for_good);
  EXPECT_THAT(refused.why, AllOf(HasSubstr("handshake refused"), HasSubstr("alice.key_secret"),
                                 HasSubstr("client_keys")));
  EXPECT_GE(router_->refused_handshakes(), 1u);
  EXPECT_THAT(Log(), HasSubstr(Keys("alice").own.public_key));
}

TEST_F(CurveTest, AKeyThatIsPutThereLaterConnects) {
  keys_.AddClient("alice", {});
  Bind();
  Client client(router_->BoundEndpoint(), Keys("alice"));
  (void)RefusalOf(client);
  keys_.Allow("alice", Role::kMonitor);
  SendWhenConnected(client, "now");
  EXPECT_TRUE(router_->Rights(Receive().peer).Allows(Role::kMonitor));
}

TEST_F(CurveTest, AKeyThatIsTakenAwayHasNoRightsAnyMore) {
  keys_.AddClient("alice", {Role::kLoader});
  keys_.AddClient("bob", {Role::kLoader});
  Bind();
  Client alice(router_->BoundEndpoint(), Keys("alice"));
  SendWhenConnected(alice, "a");
  const std::uint64_t of_alice = Receive().peer;
  Client bob(router_->BoundEndpoint(), Keys("bob"));
  SendWhenConnected(bob, "b");
  const std::uint64_t of_bob = Receive().peer;
  keys_.Forbid("alice", Role::kLoader);
  std::vector<std::uint64_t> changed;
  Until("the news", [&] {
    router_->Poll(milliseconds(20), wakeup_);
    changed = router_->TakeChanged();
    return !changed.empty();
  });
  EXPECT_THAT(changed, testing::ElementsAre(of_alice));
  EXPECT_EQ(router_->Rights(of_alice).roles, 0);
  EXPECT_TRUE(router_->Rights(of_bob).Allows(Role::kLoader));
}

// Greets as a worker does and stays: its client sees first what the other side does not speak.
class Greeter {
 public:
  Greeter() {
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address_), size_), 0);
    EXPECT_EQ(listen(listener_, 1), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address_), &size_), 0);
  }
  ~Greeter() {
    close(worker_);
    close(listener_);
  }
  Greeter(const Greeter&) = delete;
  Greeter& operator=(const Greeter&) = delete;
  std::string endpoint() const {
    return "tcp://127.0.0.1:" + std::to_string(ntohs(address_.sin_port));
  }
  void Greet(const std::string& mechanism) {
    worker_ = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    std::string greeting("\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01", 12);
    greeting += mechanism;
    greeting.resize(64);
    EXPECT_EQ(send(worker_, greeting.data(), greeting.size(), MSG_NOSIGNAL), 64);
  }

 private:
  const int listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int worker_ = -1;
  sockaddr_in address_{AF_INET, 0, {htonl(INADDR_LOOPBACK)}, {}};
  socklen_t size_ = sizeof(address_);
};

TEST_F(CurveTest, AClientWithoutKeysIsTold) {
  Greeter worker;
  Client client(worker.endpoint());
  worker.Greet("CURVE");
  const auto refused = RefusalOf(client);
  EXPECT_TRUE(refused.for_good);
  EXPECT_THAT(refused.why,
              AllOf(HasSubstr("encrypted connections only"), HasSubstr("siftd keygen")));
}

TEST_F(CurveTest, AClientWithoutKeysIsToldAlsoWhereTheWorkerSeesItFirst) {
  Bind();
  Client client(router_->BoundEndpoint());
  EXPECT_THAT(RefusalOf(client, false).why, HasSubstr("encrypted connections only"));
  Until("the count", [&] { return router_->refused_handshakes() > 0; });
}

TEST_F(CurveTest, AClientWithKeysIsToldOfAWorkerWithout) {
  keys_.AddClient("alice", {Role::kLoader});
  Greeter worker;
  Client client(worker.endpoint(), Keys("alice"));
  worker.Greet("NULL");
  const auto refused = RefusalOf(client);
  EXPECT_TRUE(refused.for_good);
  EXPECT_THAT(refused.why, AllOf(HasSubstr("does not encrypt"), HasSubstr("--key-file")));
}

TEST_F(CurveTest, AnotherWorkersPublicKeyIsNamed) {
  keys_.AddClient("alice", {Role::kLoader});
  Bind();
  ClientKeys keys = Keys("alice");
  keys.worker = MakeCurveKeys()->public_key;
  Client client(router_->BoundEndpoint(), std::move(keys));
  const auto refused = RefusalOf(client, false);
  EXPECT_FALSE(refused.for_good) << "a connection may end in its handshake by chance";
  EXPECT_THAT(refused.why, HasSubstr("worker.key' is not the public key of the worker there"));
}

TEST_F(CurveTest, WhoIsCutIsNotHeardUntilItConnectsAnew) {
  keys_.AddClient("alice", {Role::kLoader});
  keys_.AddClient("bob", {Role::kLoader});
  Bind();
  Client alice(router_->BoundEndpoint(), Keys("alice"));
  SendWhenConnected(alice, "rude");
  const std::uint64_t rude = Receive().peer;
  router_->Cut(rude);
  router_->Forget(rude);  // as the owner does after it
  EXPECT_EQ(router_->Send(rude, Message("x")), RouterEndpoint::Sent::kUnreachable);
  for (int i = 0; i < 100; ++i) SendWhenConnected(alice, "still rude");
  Client bob(router_->BoundEndpoint(), Keys("bob"));
  SendWhenConnected(bob, "polite");
  EXPECT_EQ(Receive().frames[1].view(), "polite");
  alice.pool.Reopen(0);
  SendWhenConnected(alice, "sorry");
  const auto again = Receive();
  EXPECT_EQ(again.frames[1].view(), "sorry");
  EXPECT_NE(again.peer, rude);
}

TEST_F(CurveTest, AKeyThatConnectsTooOftenIsPutOff) {
  options_.handshakes = 0.1;  // one at once
  keys_.AddClient("alice", {Role::kLoader});
  keys_.AddClient("bob", {Role::kLoader});
  Bind();
  Client first(router_->BoundEndpoint(), Keys("alice"));
  SendWhenConnected(first, "1");
  (void)Receive();
  Client second(router_->BoundEndpoint(), Keys("alice"));
  Until("a refusal", [&] {
    second.Poll();
    return router_->refused_handshakes() > 0;
  });
  EXPECT_FALSE(second.Send("x"));
  EXPECT_THAT(Log(), HasSubstr("'alice' connects too often"));
  Client other(router_->BoundEndpoint(), Keys("bob"));
  SendWhenConnected(other, "2");
  EXPECT_EQ(Receive().frames[1].view(), "2");
}

TEST_F(CurveTest, UnsoundKeyFilesStopTheStart) {
  std::filesystem::permissions(keys_.worker_secret(), std::filesystem::perms(0640));
  EXPECT_THAT(RouterEndpoint::Bind(options_).status().message(), HasSubstr("chmod 600"));
}

}  // namespace
}  // namespace siftd
