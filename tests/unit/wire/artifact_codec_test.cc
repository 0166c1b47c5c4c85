// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/artifact_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siftd {
namespace {

using testing::HasSubstr;

ArtifactManifest Small() {
  ArtifactManifest m;
  m.format = 1;
  m.torch_version = "2.13.0";
  m.model = "Net";
  m.inputs = {{"x", DType::kFloat32, {-1, 3}}, {"y", DType::kInt64, {-1}}};
  m.columns = {"loss", "confidence"};
  m.state = {{"fc.weight", "model.fc.weight", DType::kFloat32, {10, 3}, false},
             {"bn.count", "model.bn.count", DType::kInt64, {}, true}};
  return m;
}

std::string Refusal(const ArtifactManifest& m) {
  const auto parsed = ParseManifest(SerializeManifest(m));
  EXPECT_FALSE(parsed.ok());
  return parsed.status().message();
}

TEST(ArtifactCodec, SurvivesTheRoundTrip) {
  const auto m = ParseManifest(SerializeManifest(Small()));
  ASSERT_TRUE(m.ok()) << m.status().ToString();
  EXPECT_EQ(m->format, 1u);
  EXPECT_EQ(m->torch_version, "2.13.0");
  EXPECT_EQ(m->model, "Net");
  EXPECT_EQ(m->inputs, Small().inputs);
  EXPECT_EQ(m->columns, Small().columns);
  ASSERT_EQ(m->state.size(), 2u);
  EXPECT_EQ(m->state[0].archive_name, "model.fc.weight");
  EXPECT_EQ(m->state[0].shape, (std::vector<std::int64_t>{10, 3}));
  EXPECT_TRUE(m->state[1].is_buffer);
}

TEST(ArtifactCodec, BytesThatAreNoManifest) {
  EXPECT_THAT(ParseManifest("\xff\xff").status().message(), HasSubstr("is no ArtifactManifest"));
}

TEST(ArtifactCodec, AnotherFormat) {
  ArtifactManifest m = Small();
  m.format = 2;
  EXPECT_THAT(Refusal(m), HasSubstr("format is 2; allowed: 1"));
}

TEST(ArtifactCodec, NoInputs) {
  ArtifactManifest m = Small();
  m.inputs.clear();
  EXPECT_THAT(Refusal(m), HasSubstr("inputs is empty"));
}

TEST(ArtifactCodec, NoColumns) {
  ArtifactManifest m = Small();
  m.columns.clear();
  EXPECT_THAT(Refusal(m), HasSubstr("columns is empty"));
}

TEST(ArtifactCodec, AColumnTwice) {
  ArtifactManifest m = Small();
  m.columns = {"loss", "loss"};
  EXPECT_THAT(Refusal(m), HasSubstr("columns[1].name is 'loss' again"));
}

TEST(ArtifactCodec, AnInputWithoutBatch) {
  ArtifactManifest m = Small();
  m.inputs[1].shape = {4};
  EXPECT_THAT(Refusal(m), HasSubstr("begins with -1, the batch"));
}

TEST(ArtifactCodec, AnUnknownInputType) {
  ArtifactManifest m = Small();
  m.inputs[0].dtype = static_cast<DType>(11);
  EXPECT_THAT(Refusal(m), HasSubstr("inputs[0].dtype is 11"));
}

TEST(ArtifactCodec, AStateNameTwice) {
  ArtifactManifest m = Small();
  m.state[1].name = m.state[0].name;
  EXPECT_THAT(Refusal(m), HasSubstr("state names 'fc.weight' twice"));
}

TEST(ArtifactCodec, ANegativeStateSize) {
  ArtifactManifest m = Small();
  m.state[0].shape = {-1, 3};
  EXPECT_THAT(Refusal(m), HasSubstr("state[0].shape is [-1, 3]"));
}

}  // namespace
}  // namespace siftd
