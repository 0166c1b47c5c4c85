// SPDX-License-Identifier: Apache-2.0
#include "worker/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siftd {
namespace {

using testing::HasSubstr;

TEST(WorkerConfig, DefaultsAreValid) { EXPECT_EQ(WorkerConfig{}.Validate(), OkStatus()); }

TEST(WorkerConfig, TextSetsWhatItNamesAndLeavesTheRest) {
  WorkerConfig config;
  config.lanes = 3;
  ASSERT_TRUE(ParseConfig("max_rows: 9 policy { loss_cdf { keep: 0.25 } }", "t", &config).ok());
  EXPECT_EQ(config.lanes, 3u);
  EXPECT_EQ(config.max_rows, 9u);
  EXPECT_DOUBLE_EQ(std::get<LossCdfOptions>(config.policy.kind).beta, 3.0);
}

TEST(WorkerConfig, ErrorsHaveLineColumnAndField) {
  WorkerConfig config;
  EXPECT_THAT(ParseConfig("lanes: 1\nlanez: 2\n", "file", &config).message(),
              testing::AllOf(HasSubstr("file:2:"), HasSubstr("lanez")));
  EXPECT_THAT(ParseConfig("lanes: \"x\"", "file", &config).message(), HasSubstr("file:1:"));
}

TEST(WorkerConfig, TextRoundTrips) {
  WorkerConfig config;
  config.http = "127.0.0.1:0";
  config.policy.kind = TopKOptions{0.25};
  config.policy.modifiers.interrupt = 4;
  WorkerConfig again;
  ASSERT_TRUE(ParseConfig(ConfigText(config), "t", &again).ok());
  EXPECT_EQ(ConfigText(again), ConfigText(config));
  EXPECT_EQ(again.policy, config.policy);
}

TEST(WorkerConfig, RefusalsNameFieldValueAndRange) {
  WorkerConfig config;
  config.liveness_ms = 2000;
  EXPECT_EQ(config.Validate().message(), "liveness_ms is 2000; allowed: [2001, 3600000]");
  config = WorkerConfig();
  config.log_level = "loud";
  EXPECT_EQ(config.Validate().message(),
            "log_level is 'loud'; allowed: debug, info, warning, error");
  config = WorkerConfig();
  config.policy.kind = UniformOptions{2};
  EXPECT_EQ(config.Validate().message(), "policy: uniform.keep is 2; allowed: (0, 1]");
}

}  // namespace
}  // namespace siftd
