// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "siftd/loader_client.h"
#include "siftd/model_publisher.h"
#include "siftd/trainer_client.h"

namespace siftd {
namespace {

using testing::HasSubstr;

const ClientOptions kClient{.endpoints = {"tcp://127.0.0.1:1"}};

TEST(ClientOptions, RefusalsNameFieldValueAndWhatIsAllowed) {
  EXPECT_TRUE(Validate(kClient).ok());
  EXPECT_THAT(Validate(ClientOptions{}).message(), HasSubstr("endpoints is empty"));
  EXPECT_THAT(Validate(ClientOptions{.endpoints = {"worker:7070"}}).message(),
              HasSubstr("'worker:7070'; allowed: tcp://"));
  ClientOptions half = kClient;
  half.worker_key = "worker.key";
  EXPECT_THAT(Validate(half).message(),
              HasSubstr("worker_key is 'worker.key'; allowed: only with keys"));
  ClientOptions no_job = kClient;
  no_job.job = "";
  EXPECT_THAT(Validate(no_job).message(), HasSubstr("job is empty"));
}

TEST(TrainerOptions, SeveralRanksNeedEqualStepsAndOneRun) {
  TrainerOptions o{.client = kClient, .world = 2, .loader_count = 2};
  EXPECT_THAT(o.Validate().message(), HasSubstr("steps_per_epoch is 0"));
  o.steps_per_epoch = 10;
  EXPECT_THAT(o.Validate().message(), HasSubstr("run is 0"));
  o.run = 7;
  EXPECT_TRUE(o.Validate().ok());
  o.rank = 2;
  EXPECT_THAT(o.Validate().message(), HasSubstr("rank is 2; allowed: [0, 1]"));
  o.rank = 1;
  o.loader_count = 1;
  EXPECT_THAT(o.Validate().message(), HasSubstr("loader_count is 1; allowed: [2, 65536]"));
}

TEST(TrainerOptions, AStateOfAnotherJobIsRefusedByField) {
  TrainerOptions o{.client = kClient, .batch_size = 32};
  o.resume = TrainerState{.batch_size = 64};
  EXPECT_THAT(o.Validate().message(), HasSubstr("batch_size 64; allowed: this job's, 32"));
}

TEST(LoaderOptions, RefusalsNameFieldValueAndWhatIsAllowed) {
  LoaderOptions o{.client = kClient, .index = 3, .count = 2};
  EXPECT_THAT(o.Validate().message(), HasSubstr("index is 3; allowed: [0, 1]"));
  o = {.client = kClient};
  o.signature = {{"x", DType::kFloat32, {8, 3}}};
  EXPECT_THAT(o.Validate().message(), HasSubstr("x float32 [8, 3]"));
}

TEST(PublisherOptions, NeedTheRun) {
  EXPECT_THAT((PublisherOptions{.client = kClient}).Validate().message(), HasSubstr("run is 0"));
}

TEST(LoaderPass, WantsWhatIsNotDecided) {
  LoaderPass pass;
  pass.decided = {{0, 0, 2, 4}, {0, 0, 7, 8}};
  std::vector<std::uint64_t> wanted;
  for (std::uint64_t seq = 0; seq < 9; ++seq) {
    if (pass.Wanted(seq)) wanted.push_back(seq);
  }
  EXPECT_THAT(wanted, testing::ElementsAre(0, 1, 4, 5, 6, 8));
}

}  // namespace
}  // namespace siftd
