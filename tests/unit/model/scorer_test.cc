// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/scorer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <future>

#include "pipeline/model/artifact_file.h"
#include "tests/unit/model/fixture.h"

namespace siftd {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

ScoreGroupPtr Score(Scorer& scorer, std::vector<ScoredBatchPtr> batches) {
  auto group = std::make_shared<ScoreGroup>();
  group->batches = std::move(batches);
  std::promise<ScoreGroupPtr> answer;
  scorer.Submit(group, [&](ScoreGroupPtr g) { answer.set_value(std::move(g)); });
  return answer.get_future().get();
}

class ScorerTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(scorer_.LoadArtifact(Archive(), Manifest()).ok()); }
  Scorer scorer_{ScorerOptions{}};
};

TEST_F(ScorerTest, ScoresEachBatchOfAGroup) {
  const auto group = Score(scorer_, {Ones(2), Ones(5)});
  EXPECT_THAT(group->batches[0]->scores.names, ElementsAre("loss", "confidence"));
  EXPECT_THAT(group->batches[0]->scores.columns[0], ElementsAre(3.0f, 3.0f));
  EXPECT_THAT(group->batches[1]->scores.columns[1],
              testing::AllOf(testing::SizeIs(5), Each(0.25f)));
}

TEST_F(ScorerTest, FramesMayStartAnywhere) {
  auto batch = Ones(2);
  std::vector<std::uint8_t> bytes(1 + 2 * kWidth * sizeof(float));
  std::memcpy(bytes.data() + 1, batch->candidates.tensors[0].bytes.data(), bytes.size() - 1);
  const Frame whole = Frame::Adopt(std::move(bytes));
  batch->candidates.tensors[0].bytes = Frame(whole.owner(), whole.data() + 1, whole.size() - 1);
  EXPECT_THAT(Score(scorer_, {batch})->batches[0]->scores.columns[0], Each(3.0f));
}

TEST_F(ScorerTest, AnUpdateIsStampedWithVersionAndStep) {
  EXPECT_FALSE(scorer_.Update(Weights(4, 2.0f)).has_value());
  const auto group = Score(scorer_, {Ones(1)});
  EXPECT_THAT(group->batches[0]->scores.columns[0], ElementsAre(8.0f));
  EXPECT_EQ(group->batches[0]->model_version, 4u);
  EXPECT_EQ(group->batches[0]->model_step, 40u);
}

TEST_F(ScorerTest, ADeltaChangesOnlyWhatItNames) {
  ASSERT_FALSE(scorer_.Update(Weights(1, 2.0f)).has_value());
  WeightsVersion delta = Weights(2, 0.0f);
  delta.kind = ModelKind::kDelta;
  delta.tensors.erase(delta.tensors.begin());  // bias only
  ASSERT_FALSE(scorer_.Update(delta).has_value());
  EXPECT_THAT(Score(scorer_, {Ones(1)})->batches[0]->scores.columns[0], ElementsAre(6.0f));
}

TEST_F(ScorerTest, ARefusedVersionLeavesTheOldOne) {
  ASSERT_FALSE(scorer_.Update(Weights(1, 2.0f)).has_value());
  struct Case {
    const char* what;
    std::function<void(WeightsVersion&)> spoil;
    ErrorCode code;
    const char* text;
  };
  const std::vector<Case> cases{
      {"missing", [](auto& w) { w.tensors.pop_back(); }, ErrorCode::kModelMismatch, "lack 'bias'"},
      {"extra", [](auto& w) { w.tensors.push_back(Floats("z", {1}, {1})); },
       ErrorCode::kModelMismatch, "'z'"},
      {"twice", [](auto& w) { w.tensors.push_back(w.tensors[0]); }, ErrorCode::kModelMismatch,
       "'w' twice"},
      {"shape",
       [](auto& w) {
         w.tensors[0] = Floats("w", {2}, {1, 1});
       },
       ErrorCode::kModelMismatch, "takes w"},
      {"dtype", [](auto& w) { w.tensors[1].dtype = DType::kInt32; }, ErrorCode::kModelMismatch,
       "int32"},
      {"bytes", [](auto& w) { w.tensors[0].bytes = {}; }, ErrorCode::kModelMismatch,
       "needs 12 bytes"},
      {"NaN", [](auto& w) { w.tensors[1] = Floats("bias", {}, {NAN}); }, ErrorCode::kModelNotFinite,
       "'bias'"},
  };
  for (const Case& c : cases) {
    WeightsVersion w = Weights(2, 5.0f);
    c.spoil(w);
    const auto error = scorer_.Update(w);
    ASSERT_TRUE(error.has_value()) << c.what;
    EXPECT_EQ(error->code, c.code) << c.what;
    EXPECT_THAT(error->text, HasSubstr(c.text)) << c.what;
    const auto group = Score(scorer_, {Ones(1)});
    EXPECT_THAT(group->batches[0]->scores.columns[0], ElementsAre(8.0f)) << c.what;
    EXPECT_EQ(group->batches[0]->model_version, 1u) << c.what;
  }
}

TEST_F(ScorerTest, InputsAreCheckedByNameAndShape) {
  EXPECT_TRUE(scorer_.CheckInputs(Ones(2)->candidates.tensors).ok());
  EXPECT_THAT(scorer_.CheckInputs({Floats("y", {1, kWidth}, {1, 1, 1})}).message(),
              HasSubstr("lacks the model's input 'x'; it has: y"));
  EXPECT_THAT(scorer_.CheckInputs({Floats("x", {1, 2}, {1, 1})}).message(),
              HasSubstr("the model takes x float32"));
}

TEST(Scorer, AFailingBatchIsRejectedAlone) {
  Scorer scorer{ScorerOptions{}};
  ASSERT_TRUE(scorer
                  .LoadArtifact(Archive(R"(
def forward(self, x):
    assert bool((x >= 0).all()), "negative rows"
    loss = (x * self.w).sum(1) + self.bias
    return loss, loss
)"),
                                Manifest())
                  .ok());
  auto bad = Ones(2);
  bad->candidates.tensors = {Floats("x", {2, kWidth}, {1, 1, 1, -1, 1, 1})};
  const auto group = Score(scorer, {Ones(1), bad, Ones(1)});
  EXPECT_EQ(group->batches[0]->decision.outcome, Outcome::kUnspecified);
  EXPECT_EQ(group->batches[1]->decision.outcome, Outcome::kRejected);
  EXPECT_EQ(group->batches[1]->decision.code, ErrorCode::kScoringFailed);
  EXPECT_THAT(group->batches[1]->decision.text, HasSubstr("negative rows"));
  EXPECT_THAT(group->batches[2]->scores.columns[0], ElementsAre(3.0f));
}

TEST(Scorer, AReducedLossIsRejectedWithTheReason) {
  Scorer scorer{ScorerOptions{}};
  ASSERT_TRUE(scorer
                  .LoadArtifact(Archive(R"(
def forward(self, x):
    return (x * self.w).mean() + self.bias, x.sum(1)
)"),
                                Manifest())
                  .ok());
  EXPECT_THAT(Score(scorer, {Ones(4)})->batches[0]->decision.text,
              HasSubstr("must not be reduced"));
}

TEST(Scorer, WithoutAModelBatchesAreRejected) {
  Scorer scorer{ScorerOptions{}};
  EXPECT_EQ(Score(scorer, {Ones(1)})->batches[0]->decision.code, ErrorCode::kNoModel);
  EXPECT_EQ(scorer.Update(Weights(1, 1))->code, ErrorCode::kNoModel);
}

TEST(Scorer, CloseAnswersWhatIsPending) {
  Scorer scorer{ScorerOptions{}};
  scorer.Close();
  EXPECT_EQ(Score(scorer, {Ones(1)})->batches[0]->decision.code, ErrorCode::kDraining);
}

TEST(Scorer, AManifestThatDoesNotFitIsRefused) {
  Scorer scorer{ScorerOptions{}};
  ArtifactManifest manifest = Manifest();
  manifest.state[0].archive_name = "nowhere";
  EXPECT_THAT(scorer.LoadArtifact(Archive(), manifest).message(),
              HasSubstr("the archive has no 'nowhere'"));
  manifest = Manifest();
  manifest.state[0].shape = {7};
  EXPECT_THAT(scorer.LoadArtifact(Archive(), manifest).message(), HasSubstr("[7]"));
  EXPECT_FALSE(scorer.loaded());
}

TEST(ArtifactFile, ManifestIsReadFromTheArchive) {
  EXPECT_EQ(*ReadManifest(Archive()), "the manifest");
  EXPECT_THAT(ReadManifest(Frame::Adopt(std::string("nonsense"))).status().message(),
              HasSubstr("not a TorchScript archive"));
  EXPECT_EQ(ReadFile("/nowhere").status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace siftd
