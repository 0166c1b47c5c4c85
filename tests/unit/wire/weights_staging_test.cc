// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/weights_staging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace siftd {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kRun = 5;
constexpr std::uint32_t kChunk = 1024;

// 600 floats and 50 bytes: three chunks, the last one short.
class WeightsStagingTest : public testing::Test {
 protected:
  WeightsStagingTest() : bytes_(2450, '\0') {
    for (std::size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<char>(i * 7);
    begin_.run = kRun;
    begin_.version = 3;
    begin_.step = 60;
    begin_.kind = ModelKind::kFull;
    begin_.manifest = {{"w", DType::kFloat32, {20, 30}}, {"mask", DType::kBool, {50}}};
    begin_.total_bytes = bytes_.size();
    begin_.chunk_bytes = kChunk;
    begin_.chunks = 3;
    begin_.sha256 = Sha256(Frame::Copy(bytes_.data(), bytes_.size()).bytes());
    begin_.history = {0.5f};
  }

  ModelChunk Chunk(std::uint32_t index) const {
    ModelChunk m;
    m.run = kRun;
    m.version = begin_.version;
    m.index = index;
    const std::string part = bytes_.substr(std::size_t{index} * kChunk, kChunk);
    m.bytes = Frame::Adopt(part);
    m.crc32 = Crc32(m.bytes.bytes());
    return m;
  }

  ModelCommit Commit() const { return {{}, kRun, begin_.version}; }

  void ExpectRefusal(const std::optional<Refusal>& refusal, ErrorCode code,
                     const std::string& text) {
    ASSERT_TRUE(refusal.has_value());
    EXPECT_EQ(refusal->code, code);
    EXPECT_THAT(refusal->text, HasSubstr(text));
    EXPECT_EQ(staging_.chunks_received(), 0u) << "a refused transfer leaves nothing behind";
  }

  std::string bytes_;
  ModelBegin begin_;
  WeightsStaging staging_{4096};
};

TEST_F(WeightsStagingTest, GivesOutTheWholeInAnyOrderOfChunks) {
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  for (const std::uint32_t i : {2u, 0u, 1u}) ASSERT_EQ(staging_.Chunk(Chunk(i)), std::nullopt);
  EXPECT_EQ(staging_.chunks_received(), 3u);
  WeightsVersion version;
  ASSERT_EQ(staging_.Commit(Commit(), &version), std::nullopt);
  EXPECT_EQ(version.run, kRun);
  EXPECT_EQ(version.version, 3u);
  EXPECT_EQ(version.step, 60u);
  EXPECT_EQ(version.kind, ModelKind::kFull);
  EXPECT_EQ(version.history, std::vector<float>{0.5f});
  ASSERT_EQ(version.tensors.size(), 2u);
  EXPECT_EQ(version.tensors[0].name, "w");
  EXPECT_TRUE(Validate(version.tensors[0]).ok());
  EXPECT_EQ(version.tensors[0].bytes.view(), bytes_.substr(0, 2400));
  EXPECT_EQ(version.tensors[1].bytes.view(), bytes_.substr(2400));
  EXPECT_EQ(version.tensors[1].bytes.data(), version.tensors[0].bytes.data() + 2400)
      << "views of one buffer";
}

TEST_F(WeightsStagingTest, TheVersionOutlivesTheNextTransfer) {
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  for (const std::uint32_t i : {0u, 1u, 2u}) ASSERT_EQ(staging_.Chunk(Chunk(i)), std::nullopt);
  WeightsVersion version;
  ASSERT_EQ(staging_.Commit(Commit(), &version), std::nullopt);
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  staging_.Discard();
  EXPECT_EQ(version.tensors[1].bytes.view(), bytes_.substr(2400));
}

TEST_F(WeightsStagingTest, AnArtifactIsOneArchive) {
  begin_.kind = ModelKind::kArtifact;
  begin_.version = 0;
  begin_.manifest.clear();
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  for (const std::uint32_t i : {0u, 1u, 2u}) ASSERT_EQ(staging_.Chunk(Chunk(i)), std::nullopt);
  WeightsVersion version;
  ASSERT_EQ(staging_.Commit(Commit(), &version), std::nullopt);
  EXPECT_EQ(version.archive.view(), bytes_);
  EXPECT_TRUE(version.tensors.empty());
}

TEST_F(WeightsStagingTest, TooLarge) {
  WeightsStaging small(2449);
  const auto refusal = small.Begin(begin_);
  ASSERT_TRUE(refusal.has_value());
  EXPECT_EQ(refusal->code, ErrorCode::kTooLarge);
  EXPECT_EQ(refusal->text, "total_bytes is 2450; allowed: at most 2449");
}

TEST_F(WeightsStagingTest, AManifestThatSaysMoreThanTheBytes) {
  begin_.manifest[0].shape = {20, 31};
  ExpectRefusal(staging_.Begin(begin_), ErrorCode::kModelMismatch, "do not fit together");
}

TEST_F(WeightsStagingTest, AManifestBesideAnArtifact) {
  begin_.kind = ModelKind::kArtifact;
  ExpectRefusal(staging_.Begin(begin_), ErrorCode::kModelMismatch, "do not fit together");
}

TEST_F(WeightsStagingTest, ChunkWithoutBegin) {
  ExpectRefusal(staging_.Chunk(Chunk(0)), ErrorCode::kModelCorrupt, "without its ModelBegin");
}

TEST_F(WeightsStagingTest, ChunkOfAnotherRun) {
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  ModelChunk chunk = Chunk(0);
  chunk.run = kRun + 1;
  ExpectRefusal(staging_.Chunk(chunk), ErrorCode::kModelCorrupt, "without its ModelBegin");
}

TEST_F(WeightsStagingTest, ChunkOfAnotherVersion) {
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  ModelChunk chunk = Chunk(0);
  chunk.version = 4;
  ExpectRefusal(staging_.Chunk(chunk), ErrorCode::kModelCorrupt, "chunk of version 4");
}

TEST_F(WeightsStagingTest, ChunkTwice) {
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  ASSERT_EQ(staging_.Chunk(Chunk(1)), std::nullopt);
  ExpectRefusal(staging_.Chunk(Chunk(1)), ErrorCode::kModelCorrupt, "each of 0 to 2 once");
}

TEST_F(WeightsStagingTest, ChunkIndexBeyondTheLast) {
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  ModelChunk chunk = Chunk(0);
  chunk.index = 3;
  ExpectRefusal(staging_.Chunk(chunk), ErrorCode::kModelCorrupt, "chunk index is 3");
}

TEST_F(WeightsStagingTest, ChunkOfTheWrongSize) {
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  ModelChunk chunk = Chunk(0);
  chunk.index = 2;
  ExpectRefusal(staging_.Chunk(chunk), ErrorCode::kModelCorrupt, "1024 bytes; allowed: 402");
}

TEST_F(WeightsStagingTest, ChunkWithAFlippedBit) {
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  ModelChunk chunk = Chunk(1);
  chunk.crc32 ^= 1;
  ExpectRefusal(staging_.Chunk(chunk), ErrorCode::kModelCorrupt, "CRC-32 of chunk 1 differs");
}

TEST_F(WeightsStagingTest, CommitBeforeTheLastChunk) {
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  ASSERT_EQ(staging_.Chunk(Chunk(0)), std::nullopt);
  WeightsVersion version;
  ExpectRefusal(staging_.Commit(Commit(), &version), ErrorCode::kModelCorrupt,
                "after 1 of 3 chunks");
}

TEST_F(WeightsStagingTest, CommitOfAnotherVersion) {
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  WeightsVersion version;
  ExpectRefusal(staging_.Commit({{}, kRun, 4}, &version), ErrorCode::kModelCorrupt,
                "without its ModelBegin");
}

// A torn snapshot: each chunk is sound, the whole is another one's.
TEST_F(WeightsStagingTest, DigestOfOtherBytes) {
  begin_.sha256[0] ^= 1;
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  for (const std::uint32_t i : {0u, 1u, 2u}) ASSERT_EQ(staging_.Chunk(Chunk(i)), std::nullopt);
  WeightsVersion version;
  ExpectRefusal(staging_.Commit(Commit(), &version), ErrorCode::kModelCorrupt, "SHA-256");
  EXPECT_TRUE(version.tensors.empty());
}

TEST_F(WeightsStagingTest, ANewBeginReplacesAHalfTransfer) {
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  ASSERT_EQ(staging_.Chunk(Chunk(0)), std::nullopt);
  begin_.version = 4;
  ASSERT_EQ(staging_.Begin(begin_), std::nullopt);
  EXPECT_EQ(staging_.chunks_received(), 0u);
  for (const std::uint32_t i : {0u, 1u, 2u}) ASSERT_EQ(staging_.Chunk(Chunk(i)), std::nullopt);
  WeightsVersion version;
  ASSERT_EQ(staging_.Commit(Commit(), &version), std::nullopt);
  EXPECT_EQ(version.version, 4u);
}

}  // namespace
}  // namespace siftd
