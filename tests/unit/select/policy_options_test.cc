// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "pipeline/select/selector.h"

namespace siftd {
namespace {

using testing::HasSubstr;

template <typename Options>
std::string Refusal(Options options) {
  PolicyOptions policy;
  policy.kind = options;
  return Validate(policy).message();
}

TEST(PolicyOptions, DefaultsAreValid) {
  EXPECT_TRUE(Validate(PolicyOptions{}).ok());
  EXPECT_EQ(Refusal(UniformOptions{}), "");
  EXPECT_EQ(Refusal(ConfidenceOptions{}), "");
  EXPECT_EQ(Refusal(LossCdfOptions{}), "");
  EXPECT_EQ(Refusal(ComposerRankOptions{}), "");
  EXPECT_EQ(Refusal(TopKOptions{}), "");
}

TEST(PolicyOptions, RefusalNamesFieldValueAndRange) {
  EXPECT_EQ(Refusal(UniformOptions{.keep = 1.5}), "uniform.keep is 1.5; allowed: (0, 1]");
  EXPECT_EQ(Refusal(UniformOptions{.keep = std::nan("")}), "uniform.keep is nan; allowed: (0, 1]");
  EXPECT_EQ(Refusal(ConfidenceOptions{.tau = 0}), "confidence.tau is 0; allowed: (0, 1]");
  EXPECT_EQ(Refusal(ConfidenceOptions{.floor = -0.1}), "confidence.floor is -0.1; allowed: [0, 1]");
  EXPECT_EQ(Refusal(LossCdfOptions{.beta = -1}),
            "loss_cdf.beta is -1; allowed: > 0 (0 keeps every row)");
  EXPECT_EQ(Refusal(LossCdfOptions{.loss_history_length = 1}),
            "loss_cdf.loss_history_length is 1; allowed: [2, 10000000]");
  EXPECT_EQ(Refusal(LossCdfOptions{.floor = 2}), "loss_cdf.floor is 2; allowed: [0, 1]");
  EXPECT_EQ(Refusal(LossCdfOptions{.clip = 0}), "loss_cdf.clip is 0; allowed: (0, 1]");
  EXPECT_EQ(Refusal(ComposerRankOptions{.keep = 0}), "composer_rank.keep is 0; allowed: (0, 1]");
  EXPECT_EQ(Refusal(TopKOptions{.keep = -1}), "top_k.keep is -1; allowed: (0, 1]");
}

TEST(PolicyOptions, ModifiersAreChecked) {
  PolicyOptions policy;
  policy.modifiers.start = 0.9;
  policy.modifiers.end = 0.5;
  EXPECT_THAT(Validate(policy).message(), HasSubstr("modifiers.start is 0.9"));
  policy.modifiers = {.interrupt = 1};
  EXPECT_THAT(Validate(policy).message(), HasSubstr("modifiers.interrupt is 1"));
}

TEST(PolicyOptions, TextAndColumn) {
  PolicyOptions policy;
  EXPECT_EQ(ToString(policy), "auto");
  policy.kind = ConfidenceOptions{};
  EXPECT_EQ(ToString(policy), "confidence(tau=0.5, floor=0.05)");
  EXPECT_EQ(PolicyColumn(policy), "confidence");
  policy.kind = LossCdfOptions{.beta = 2, .clip = 0.9};
  EXPECT_EQ(ToString(policy), "loss_cdf(beta=2, loss_history_length=1024, clip=0.9)");
  EXPECT_EQ(PolicyColumn(policy), "loss");
  policy.column = "grad_norm";
  EXPECT_EQ(PolicyColumn(policy), "grad_norm");
}

}  // namespace
}  // namespace siftd
