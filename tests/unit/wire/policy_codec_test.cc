// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/policy_codec.h"

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <string>

namespace siftd {
namespace {

PolicyOptions Read(const std::string& text) {
  v1::Policy proto;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &proto)) << text;
  auto options = wire::From(proto);
  EXPECT_TRUE(options.ok()) << options.status().ToString();
  return *options;
}

PolicyOptions RoundTrip(const PolicyOptions& options) {
  v1::Policy proto;
  wire::To(options, &proto);
  return *wire::From(proto);
}

TEST(PolicyCodec, UnsetPolicyIsTheWorkersOwn) { EXPECT_EQ(Read(""), PolicyOptions{}); }

TEST(PolicyCodec, UnsetOptionsTakeTheirDefaults) {
  EXPECT_EQ(std::get<ConfidenceOptions>(Read("confidence {}").kind), ConfidenceOptions{});
  EXPECT_EQ(std::get<LossCdfOptions>(Read("loss_cdf {}").kind), LossCdfOptions{});
  EXPECT_EQ(Read("uniform { keep: 0.5 }").modifiers, ModifierOptions{});
}

TEST(PolicyCodec, AZeroThatIsSetIsNoDefault) {
  EXPECT_EQ(std::get<ConfidenceOptions>(Read("confidence { floor: 0 }").kind).floor, 0.0);
  EXPECT_EQ(Read("uniform { keep: 1 } modifiers { end: 0 }").modifiers.end, 0.0);
}

TEST(PolicyCodec, KeepOfLossCdfBecomesBeta) {
  EXPECT_DOUBLE_EQ(std::get<LossCdfOptions>(Read("loss_cdf { keep: 0.25 }").kind).beta, 3.0);
  EXPECT_DOUBLE_EQ(std::get<LossCdfOptions>(Read("loss_cdf { keep: 1 }").kind).beta, 0.0);
  // Out of its range: a beta that Validate refuses, no division by zero.
  EXPECT_LT(std::get<LossCdfOptions>(Read("loss_cdf { keep: 0 }").kind).beta, 0.0);
}

TEST(PolicyCodec, EveryPolicySurvivesTheRoundTrip) {
  PolicyOptions options;
  options.modifiers = {10, true, 0.25, 0.75, 5};
  options.column = "grad_norm";
  options.non_finite = NonFinite::kKeep;
  options.kind = UniformOptions{0.3};
  EXPECT_EQ(RoundTrip(options), options);
  options.kind = ConfidenceOptions{0.6, 0.1};
  EXPECT_EQ(RoundTrip(options), options);
  options.kind = LossCdfOptions{2.0, 77, 0.1, 0.9};
  EXPECT_EQ(RoundTrip(options), options);
  options.kind = ComposerRankOptions{0.4};
  EXPECT_EQ(RoundTrip(options), options);
  options.kind = TopKOptions{0.2};
  EXPECT_EQ(RoundTrip(options), options);
}

TEST(PolicyCodec, UnknownNonFiniteIsRefused) {
  v1::Policy proto;
  proto.set_non_finite(static_cast<v1::NonFinite>(3));
  EXPECT_EQ(wire::From(proto).status().message(),
            "policy.non_finite is 3; allowed: 0 to 2 (enum NonFinite)");
}

TEST(PolicyCodec, JobSpecSurvivesTheRoundTrip) {
  JobSpec spec;
  spec.mode = Mode::kVerdicts;
  spec.policy.kind = TopKOptions{0.2};
  spec.seed = 1ull << 63;
  spec.artifact_sha256 = std::string(64, 'a');
  spec.total_steps = 1000;
  spec.max_staleness_steps = 50;
  spec.stale_unsifted = true;
  v1::JobSpec proto;
  wire::To(spec, &proto);
  EXPECT_EQ(*wire::From(proto), spec);
}

}  // namespace
}  // namespace siftd
