// SPDX-License-Identifier: Apache-2.0
// Deadlines and ends of the clients when no worker is there, and what they say first to one that
// is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/net/router_endpoint.h"
#include "pipeline/wire/codec.h"
#include "siftd/loader_client.h"
#include "siftd/model_publisher.h"
#include "siftd/trainer_client.h"
#include "tests/unit/net/key_folder.h"

namespace siftd {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::unique_ptr<RouterEndpoint> Bind() {
  RouterOptions options;
  options.endpoint = "tcp://127.0.0.1:0";
  return std::move(RouterEndpoint::Bind(options)).value();
}

// The first message of a client to `router`.
Result<Message> First(RouterEndpoint& router) {
  const Wakeup wakeup;
  const MonoTime deadline = Now() + std::chrono::seconds(30);
  RouterEndpoint::Received received;
  while (!router.Receive(&received)) {
    if (Now() > deadline) return DeadlineExceeded("no message came");
    router.Poll(milliseconds(100), wakeup);
  }
  return Decode(received.frames);
}

TEST(LoaderClient, ADeadlineNamesThePeerAndTheStage) {
  const auto router = Bind();  // takes connections, never says Welcome
  LoaderOptions options{.client = {.endpoints = {router->BoundEndpoint()}}};
  options.start_timeout = milliseconds(100);
  auto loader = LoaderClient::Connect(options);
  ASSERT_TRUE(loader.ok());
  const auto pass = (*loader)->NextPass();
  EXPECT_EQ(pass.status().code(), Code::kDeadlineExceeded);
  EXPECT_THAT(pass.status().message(),
              AllOf(HasSubstr("loader 0"), HasSubstr(router->BoundEndpoint()),
                    HasSubstr("start the workers")));
}

TEST(LoaderClient, ARefusedHandshakeEndsTheWaitAndNamesEndpointAndStage) {
  const KeyFolder keys;
  RouterOptions options;
  options.key_file = keys.worker_secret();
  options.client_keys = keys.client_keys();
  const auto router = std::move(RouterEndpoint::Bind(options)).value();
  const std::string stranger = keys.AddClient("stranger", {});
  for (const std::string& own : {stranger, std::string()}) {
    LoaderOptions loader_options{.client = {.endpoints = {router->BoundEndpoint()}, .keys = own}};
    loader_options.start_timeout = std::chrono::seconds(3);
    Status refused;
    // Without keys, which side notices first is chance; libzmq tries again later and later.
    for (int i = 0; i < 20 && refused.code() != Code::kFailedPrecondition; ++i) {
      auto loader = LoaderClient::Connect(loader_options);
      ASSERT_TRUE(loader.ok()) << loader.status().ToString();
      refused = (*loader)->NextPass().status();
      EXPECT_TRUE(own.empty() || refused.code() == Code::kFailedPrecondition) << "at once";
    }
    EXPECT_EQ(refused.code(), Code::kFailedPrecondition);
    EXPECT_THAT(refused.message(),
                AllOf(HasSubstr(router->BoundEndpoint()), HasSubstr("handshake refused"),
                      HasSubstr(own.empty() ? "encrypted connections only" : "client_keys")));
  }
}

TEST(LoaderClient, UnsoundKeysAreToldBeforeItConnects) {
  LoaderOptions options{
      .client = {.endpoints = {"tcp://127.0.0.1:1"}, .keys = "/nowhere.key_secret"}};
  EXPECT_THAT(LoaderClient::Connect(options).status().message(),
              HasSubstr("'/nowhere.key_secret'"));
}

TEST(LoaderClient, OfferBeforeNextPassIsRefused) {
  const auto router = Bind();
  auto loader = LoaderClient::Connect({.client = {.endpoints = {router->BoundEndpoint()}}});
  ASSERT_TRUE(loader.ok());
  EXPECT_EQ((*loader)->Offer(0, {1}, {}).status().code(), Code::kFailedPrecondition);
}

TEST(LoaderClient, HelloSaysWhoItIs) {
  const auto router = Bind();
  LoaderOptions options{.client = {.endpoints = {router->BoundEndpoint()}, .job = "j"}};
  options.index = 1;
  options.count = 3;
  options.fingerprint = {100, 10, 5};
  auto loader = LoaderClient::Connect(options);
  ASSERT_TRUE(loader.ok());
  const auto message = First(*router);
  ASSERT_TRUE(message.ok()) << message.status().ToString();
  const auto* hello = std::get_if<Hello>(&*message);
  ASSERT_NE(hello, nullptr);
  EXPECT_EQ(hello->role, Role::kLoader);
  EXPECT_EQ(hello->job, "j");
  EXPECT_EQ(hello->loader_index, 1u);
  EXPECT_EQ(hello->loader_count, 3u);
  EXPECT_EQ(hello->fingerprint, (Fingerprint{100, 10, 5}));
}

TEST(TrainerClient, ADeadlineNamesThePeerAndTheStage) {
  const auto router = Bind();
  TrainerOptions options{.client = {.endpoints = {router->BoundEndpoint()}}};
  options.timeout = milliseconds(100);
  options.linger = milliseconds(0);
  auto trainer = TrainerClient::Connect(options);
  ASSERT_TRUE(trainer.ok());
  const auto item = (*trainer)->Next();
  EXPECT_EQ(item.status().code(), Code::kDeadlineExceeded);
  EXPECT_THAT(item.status().message(),
              AllOf(HasSubstr("rank 0"), HasSubstr(router->BoundEndpoint())));
  (*trainer)->Finish();
  const auto end = (*trainer)->Next();
  ASSERT_TRUE(end.ok());
  EXPECT_EQ(end->kind, TrainerItem::Kind::kRunOver);
}

TEST(TrainerClient, AStateGoesThroughAClientUnchanged) {
  const auto router = Bind();
  TrainerOptions options{.client = {.endpoints = {router->BoundEndpoint()}}, .batch_size = 4};
  TrainerState state{.steps = 9, .batch_size = 4};
  state.decided.intervals = {{0, 2, 0, 5}};
  state.decided.next_pass = {2};
  Selected half;
  half.key = {0, 2, 4};
  half.epoch = 2;
  half.sample_id = {41, 42};
  half.decision.outcome = Outcome::kDecided;
  half.decision.rows = 2;
  half.decision.kept = {0, 1};
  half.tensors = {{"x", DType::kUInt8, {2, 1}, Frame::Adopt(std::vector<std::uint8_t>{7, 8})}};
  state.half = half;
  Selected carried = half;  // of a pass that is behind
  carried.key = {0, 1, 3};
  carried.sample_id = {43, 44};
  state.carried = {carried};
  options.resume = state;
  auto trainer = TrainerClient::Connect(options);
  ASSERT_TRUE(trainer.ok()) << trainer.status().ToString();
  const TrainerState now = (*trainer)->State();
  EXPECT_EQ(now.steps, 9u);
  EXPECT_EQ(now.decided.intervals, state.decided.intervals);
  EXPECT_EQ(now.decided.next_pass, state.decided.next_pass);
  ASSERT_TRUE(now.half.has_value());
  EXPECT_EQ(now.half->key, half.key);
  EXPECT_EQ(now.half->sample_id, half.sample_id);
  ASSERT_EQ(now.half->tensors.size(), 1u);
  EXPECT_EQ(now.half->tensors[0].bytes.view(), half.tensors[0].bytes.view());
  ASSERT_EQ(now.carried.size(), 1u);
  EXPECT_EQ(now.carried[0].key, carried.key);
  EXPECT_EQ(now.carried[0].sample_id, carried.sample_id);
}

// Bug: woken before its socket was connected, it never got its Hello out.
TEST(ModelPublisher, SaysHelloAlsoWhenItHasSomethingToSendAtOnce) {
  const auto router = Bind();
  auto publisher =
      ModelPublisher::Connect({.client = {.endpoints = {router->BoundEndpoint()}}, .run = 5});
  ASSERT_TRUE(publisher.ok());
  for (int i = 0; i < 20; ++i) ASSERT_TRUE((*publisher)->Publish(0, {}).ok());
  const auto message = First(*router);
  ASSERT_TRUE(message.ok()) << message.status().ToString();
  EXPECT_TRUE(std::holds_alternative<Hello>(*message));
}

TEST(ModelPublisher, ADeadlineNamesThePeerAndTheStage) {
  const auto router = Bind();
  auto publisher =
      ModelPublisher::Connect({.client = {.endpoints = {router->BoundEndpoint()}}, .run = 5});
  ASSERT_TRUE(publisher.ok());
  const auto version = (*publisher)->Publish(0, {});
  ASSERT_TRUE(version.ok());
  EXPECT_EQ(*version, 1u);
  const Status applied = (*publisher)->WaitApplied(*version, 1, milliseconds(50));
  EXPECT_EQ(applied.code(), Code::kDeadlineExceeded);
  EXPECT_THAT(applied.message(), AllOf(HasSubstr("version 1 is in force at 0 of 1"),
                                       HasSubstr(router->BoundEndpoint())));
}

}  // namespace
}  // namespace siftd
