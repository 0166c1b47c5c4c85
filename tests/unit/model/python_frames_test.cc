// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/python_frames.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/unit/model/fixture.h"

namespace siftd {
namespace {

using namespace python_frames;  // NOLINT(google-build-using-namespace)
using testing::HasSubstr;

template <typename T>
T At(const std::string& bytes, std::size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

TEST(PythonFrames, AnUpdateNamesItsTensorsByTheirPlaceInTheManifest) {
  WeightsVersion weights = Weights(7, 2.0f);
  weights.tensors.erase(weights.tensors.begin());  // bias only
  const Request request = UpdateRequest(Manifest(), weights);
  EXPECT_EQ(request.head.substr(0, 4), "SFPC");
  EXPECT_EQ(At<std::uint32_t>(request.head, 4), 2u);
  EXPECT_EQ(At<std::uint64_t>(request.head, 8), 32u + 16u + 4u);  // head, one entry, one float
  const auto head = At<UpdateHead>(request.head, 16);
  EXPECT_EQ(head.run, 1u);
  EXPECT_EQ(head.version, 7u);
  EXPECT_EQ(head.step, 70u);
  EXPECT_EQ(head.tensors, 1u);
  EXPECT_EQ(At<UpdateEntry>(request.head, 48).index, 1u);
  EXPECT_EQ(At<UpdateEntry>(request.head, 48).bytes, 4u);
  ASSERT_EQ(request.payload.size(), 1u);
  EXPECT_EQ(request.payload[0].data(), weights.tensors[0].bytes.data()) << "the bytes were copied";
}

TEST(PythonFrames, TheRowsOfAllBatchesFollowEachOtherUncopied) {
  const std::vector<ScoredBatchPtr> batches{Ones(2), Ones(5)};
  const auto request = ScoreRequest(Manifest(), batches);
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(At<std::uint32_t>(request->head, 4), 3u);
  EXPECT_EQ(At<std::uint64_t>(request->head, 8), 16u + 144u + 7 * kWidth * 4);
  EXPECT_EQ(At<ScoreHead>(request->head, 16).rows, 7u);
  EXPECT_EQ(At<ScoreHead>(request->head, 16).inputs, 1u);
  const auto entry = At<InputEntry>(request->head, 32);
  EXPECT_EQ(entry.dtype, 9u);
  EXPECT_EQ(entry.rank, 2u);
  EXPECT_EQ(entry.bytes, 7u * kWidth * 4);
  EXPECT_THAT(std::vector<std::int64_t>(entry.shape, entry.shape + 3),
              testing::ElementsAre(7, kWidth, 0));
  ASSERT_EQ(request->payload.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(request->payload[i].data(), batches[i]->candidates.tensors[0].bytes.data());
  }
}

TEST(PythonFrames, BatchesThatDoNotFitTogetherAreRefused) {
  auto wide = Ones(2);
  wide->candidates.tensors = {Floats("x", {2, 4}, std::vector<float>(8))};
  EXPECT_THAT(ScoreRequest(Manifest(), {Ones(2), wide}).status().message(),
              HasSubstr("differs from batch to batch"));
  auto nameless = Ones(2);
  nameless->candidates.tensors[0].name = "y";
  EXPECT_THAT(ScoreRequest(Manifest(), {nameless}).status().message(),
              HasSubstr("lacks the input"));
  auto more_rows = Ones(2);
  more_rows->candidates.sample_id.resize(3);
  EXPECT_THAT(ScoreRequest(Manifest(), {more_rows}).status().message(), HasSubstr("do not make"));
  auto deep = Ones(1);
  deep->candidates.tensors[0].shape.resize(kMaxRank + 1, 1);
  EXPECT_THAT(ScoreRequest(Manifest(), {deep}).status().message(), HasSubstr("16 dimensions"));
}

Header Reply(Type type, std::uint64_t bytes) {
  return {{'S', 'F', 'P', 'C'}, static_cast<std::uint32_t>(type), bytes};
}

TEST(PythonFrames, ARepliesSizeIsCheckedBeforeMemoryIsTaken) {
  EXPECT_TRUE(CheckReply(Reply(Type::kReady, 64), 0).ok());
  EXPECT_TRUE(CheckReply(Reply(Type::kOk, 0), 0).ok());
  EXPECT_TRUE(CheckReply(Reply(Type::kScores, 24), 24).ok());
  EXPECT_TRUE(CheckReply(Reply(Type::kError, kMaxErrorBytes), 0).ok());

  EXPECT_FALSE(CheckReply(Reply(Type::kReady, 63), 0).ok());
  EXPECT_FALSE(CheckReply(Reply(Type::kReady, 64 + kMaxManifestBytes + 1), 0).ok());
  EXPECT_FALSE(CheckReply(Reply(Type::kOk, 1), 0).ok());
  EXPECT_FALSE(CheckReply(Reply(Type::kScores, 23), 24).ok());
  EXPECT_FALSE(CheckReply(Reply(Type::kScores, 0), 0).ok()) << "no scores were asked for";
  EXPECT_FALSE(CheckReply(Reply(Type::kError, kMaxErrorBytes + 1), 0).ok());
  EXPECT_FALSE(CheckReply(Reply(Type::kScore, 24), 24).ok()) << "the worker's own message";
  EXPECT_FALSE(CheckReply(Reply(Type{99}, 0), 0).ok());
  Header header = Reply(Type::kOk, 0);
  header.magic[0] = 'H';
  EXPECT_EQ(CheckReply(header, 0).status().code(), Code::kDataLoss);
}

}  // namespace
}  // namespace siftd
