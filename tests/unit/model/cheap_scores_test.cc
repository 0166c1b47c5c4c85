// SPDX-License-Identifier: Apache-2.0
// What makes scores cheaper: bfloat16, smaller images, prior scores.
#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <future>
#include <numeric>

#include "pipeline/model/scorer.h"
#include "tests/unit/model/fixture.h"

namespace siftd {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::FloatNear;
using testing::HasSubstr;
using testing::IsNan;

ScoredBatchPtr Score(Scorer& scorer, const ScoredBatchPtr& batch) {
  auto group = std::make_shared<ScoreGroup>();
  group->batches = {batch};
  std::promise<ScoreGroupPtr> answer;
  scorer.Submit(group, [&](ScoreGroupPtr g) { answer.set_value(std::move(g)); });
  answer.get_future().get();
  return batch;
}

// loss = mean of (x @ w) over what it returns of the image; `head` follows it.
Frame ImageArchive(const std::string& body) {
  torch::jit::Module module("Images");
  module.register_parameter("w", torch::full({2, 2}, 1.0 + 1.0 / 512), false);
  module.register_parameter("bias", torch::full({2}, 1.0 + 1.0 / 512), false);
  module.define("def forward(self, x):\n" + body + "\n");
  std::ostringstream out;
  module.save(out, {{"siftd.manifest", "the manifest"}});
  return Frame::Adopt(out.str());
}

ArtifactManifest ImageManifest(DType dtype = DType::kFloat32, std::int64_t size = 16) {
  ArtifactManifest m;
  m.format = 1;
  m.inputs = {{"x", dtype, {-1, 1, size, size}}};
  m.columns = {"loss"};
  m.state = {{"w", "w", DType::kFloat32, {2, 2}, false}};
  return m;
}

// One row; pixel values count up from 0.
ScoredBatchPtr Image(std::int64_t size = 16) {
  std::vector<float> pixels(static_cast<std::size_t>(size * size));
  std::iota(pixels.begin(), pixels.end(), 0.0f);
  auto batch = std::make_shared<ScoredBatch>();
  batch->candidates.sample_id = {0};
  batch->candidates.tensors = {Floats("x", {1, 1, size, size}, pixels)};
  return batch;
}

Status Load(Scorer& scorer, const std::string& body, ArtifactManifest manifest) {
  return scorer.LoadArtifact(ImageArchive(body), std::move(manifest));
}

TEST(ScoreDtype, WeightsAreCastAtTheSwapAndScoresAreFloat) {
  Scorer scorer{{.cost = {.bf16 = true}}};
  // A weight matrix of 1 + 1/512 is 1 in bfloat16; a bias keeps what it is.
  ASSERT_TRUE(
      Load(scorer, "  return torch.stack([self.w.sum() + self.bias.sum() * 0], 0)", ImageManifest())
          .ok());
  EXPECT_THAT(Score(scorer, Image())->scores.columns.at(0), ElementsAre(4.0f));
  WeightsVersion weights;
  weights.run = weights.version = 1;
  weights.kind = ModelKind::kFull;
  weights.tensors = {Floats("w", {2, 2}, std::vector<float>(4, 3.0f + 1.0f / 256))};
  ASSERT_FALSE(scorer.Update(weights).has_value());
  EXPECT_THAT(Score(scorer, Image())->scores.columns.at(0), ElementsAre(12.0f));
}

TEST(ScoreDtype, BiasesAndIntegersStayAsTheyAre) {
  Scorer scorer{{.cost = {.bf16 = true}}};
  ASSERT_TRUE(Load(scorer, "  return self.bias[:1]", ImageManifest()).ok());
  EXPECT_THAT(Score(scorer, Image())->scores.columns.at(0), ElementsAre(1.0f + 1.0f / 512));
  Scorer integers{{.cost = {.bf16 = true}}};
  ASSERT_TRUE(
      Load(integers, "  return x.flatten(1).sum(1).float()", ImageManifest(DType::kInt64)).ok());
  auto batch = Image();
  std::vector<std::int64_t> pixels(256, 1025);  // 1024 in bfloat16
  batch->candidates.tensors = {
      {"x", DType::kInt64, {1, 1, 16, 16}, Frame::Copy(pixels.data(), 8 * pixels.size())}};
  EXPECT_THAT(Score(integers, batch)->scores.columns.at(0), ElementsAre(256.0f * 1025));
}

// A trace's own casts stay: what they give meets bfloat16 weights, and operators see to it.
TEST(ScoreDtype, ATraceMayCast) {
  Scorer scorer{{.cost = {.bf16 = true}}};
  ASSERT_TRUE(
      Load(scorer, "  return (x.float().flatten(1)[:, :2] @ self.w).sum(1)", ImageManifest()).ok());
  EXPECT_THAT(Score(scorer, Image())->scores.columns.at(0), ElementsAre(2.0f));
}

TEST(ScoreDtype, WhatCannotRunInBf16IsRefusedAtLoad) {
  Scorer scorer{{.cost = {.bf16 = true}}};
  const Status status = Load(scorer,
                             "  return torch.bincount(self.w.view(-1).int()).float()[:1] *\\\n"
                             "      torch.det(self.w)",
                             ImageManifest());
  EXPECT_THAT(status.message(), HasSubstr("score_dtype is 'bf16'; allowed: what this scorer can "
                                          "compute. It takes x float32 [-1, 1, 16, 16]"));
  EXPECT_FALSE(scorer.loaded());
}

TEST(ScoreDtype, TheThreadsOwnCastsAreAsBefore) {
  Scorer scorer{{.cost = {.bf16 = true}}};
  ASSERT_TRUE(Load(scorer, "  return x.flatten(1).sum(1)", ImageManifest()).ok());
  EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
}

TEST(ScoreOptimize, EachVersionIsOptimizedAndScoredWith) {
  Scorer plain{ScorerOptions{}};
  Scorer optimized{{.cost = {.optimized = true}}};
  for (Scorer* scorer : {&plain, &optimized}) {
    ASSERT_TRUE(Load(*scorer,
                     "  y = torch.conv2d(x, self.w.view(1, 1, 2, 2), None, [2, 2])\n"
                     "  return torch.relu(y).flatten(1).mean(1) + self.bias[:1]",
                     ImageManifest())
                    .ok());
  }
  for (std::uint64_t version = 1; version < 4; ++version) {
    WeightsVersion weights;
    weights.run = 1;
    weights.version = version;
    weights.kind = version == 1 ? ModelKind::kFull : ModelKind::kDelta;
    weights.tensors = {Floats("w", {2, 2}, std::vector<float>(4, static_cast<float>(version)))};
    ASSERT_FALSE(plain.Update(weights).has_value());
    ASSERT_FALSE(optimized.Update(weights).has_value());
    const auto want = Score(plain, Image());
    const auto got = Score(optimized, Image());
    EXPECT_THAT(got->scores.columns.at(0).at(0),
                FloatNear(want->scores.columns.at(0).at(0), 1e-3f));
    EXPECT_EQ(got->model_version, version);
  }
}

TEST(ScoreResolution, ImagesAreScaledBilinearly) {
  Scorer scorer{{.cost = {.resolution = 8}}};
  ASSERT_TRUE(
      Load(scorer, "  return x[:, 0, 0, 1] + 1000 * x.shape[2] + 10 * x.shape[3]", ImageManifest())
          .ok());
  // Half the size: the mean of each square of four. Pixels 2, 3, 18, 19.
  EXPECT_THAT(Score(scorer, Image())->scores.columns.at(0), ElementsAre(8000.0f + 80.0f + 10.5f));
}

TEST(ScoreResolution, BytesAreScaledAndRounded) {
  Scorer scorer{{.cost = {.resolution = 8}}};
  ASSERT_TRUE(Load(scorer, "  return x[:, 0, 0, 1].float()", ImageManifest(DType::kUInt8)).ok());
  std::vector<std::uint8_t> pixels(256);
  std::iota(pixels.begin(), pixels.end(), std::uint8_t{0});
  auto batch = Image();
  batch->candidates.tensors = {
      {"x", DType::kUInt8, {1, 1, 16, 16}, Frame::Copy(pixels.data(), pixels.size())}};
  EXPECT_THAT(Score(scorer, batch)->scores.columns.at(0), ElementsAre(10.0f));
}

TEST(ScoreResolution, SmallerImagesStayAsTheyAre) {
  Scorer scorer{{.cost = {.resolution = 64}}};
  ASSERT_TRUE(Load(scorer, "  return x[:, 0, 0, 1] + 1000 * x.shape[2]", ImageManifest()).ok());
  EXPECT_THAT(Score(scorer, Image())->scores.columns.at(0), ElementsAre(16001.0f));
}

TEST(ScoreResolution, AModelOfAFixedSizeIsRefusedAtLoad) {
  Scorer scorer{{.cost = {.resolution = 8}}};
  const Status status = Load(scorer, "  return (x.view(-1, 256)).sum(1)", ImageManifest());
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("score_resolution is 8; allowed: what this scorer can "
                                          "compute. It takes x float32 [-1, 1, 16, 16], and "
                                          "failed: "));
  EXPECT_FALSE(scorer.loaded());
}

TEST(ScoreResolution, AScorerWithoutImagesIsRefused) {
  Scorer scorer{{.cost = {.resolution = 8}}};
  EXPECT_THAT(scorer.LoadArtifact(Archive(), Manifest()).message(),
              HasSubstr("allowed: 0 for a scorer without images [n, c, h, w]; this one takes x "
                        "float32 [-1, 3]"));
}

TEST(PriorScores, OnlyTheOtherRowsGoToTheModel) {
  Scorer scorer{ScorerOptions{}};
  // The loss tells how many rows the model saw.
  ASSERT_TRUE(scorer
                  .LoadArtifact(Archive(R"(
def forward(self, x):
    return (x * self.w).sum(1) + 100 * x.shape[0], x.sum(1)
)"),
                                Manifest())
                  .ok());
  auto batch = Ones(4);
  batch->candidates.tensors = {Floats("x", {4, kWidth}, {0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3})};
  batch->candidates.prior_score = {7, NAN, 7, NAN};
  const auto& columns = Score(scorer, batch)->scores.columns;
  EXPECT_THAT(columns.at(0), ElementsAre(IsNan(), 203.0f, IsNan(), 209.0f));
  EXPECT_THAT(columns.at(1), ElementsAre(IsNan(), 3.0f, IsNan(), 9.0f));
  EXPECT_EQ(batch->scored_rows, 2u);
  EXPECT_EQ(batch->candidates.tensors.at(0).rows(), 4) << "the kept rows are cut from them";
}

TEST(PriorScores, NoneMeansAll) {
  Scorer scorer{ScorerOptions{}};
  ASSERT_TRUE(scorer.LoadArtifact(Archive(), Manifest()).ok());
  auto batch = Ones(3);
  batch->candidates.prior_score = {NAN, NAN, NAN};
  EXPECT_THAT(Score(scorer, batch)->scores.columns.at(0), Each(FloatNear(3.0f, 0)));
  EXPECT_EQ(batch->scored_rows, 3u);
}

}  // namespace
}  // namespace siftd
