// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/publisher_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/delivery/core_driver.h"

namespace siftd {
namespace {

constexpr std::uint64_t kRun = 50;
constexpr std::uint32_t kChunk = 4;

std::shared_ptr<const ModelSnapshot> Snapshot(std::uint64_t version,
                                              ModelKind kind = ModelKind::kFull,
                                              std::uint32_t chunks = 6) {
  auto s = std::make_shared<ModelSnapshot>();
  s->bytes = Frame::Adopt(
      std::vector<std::uint8_t>(chunks * kChunk - 1, static_cast<std::uint8_t>(version)));
  s->begin.version = version;
  s->begin.kind = kind;
  s->begin.total_bytes = s->bytes.size();
  s->begin.chunk_bytes = kChunk;
  s->begin.chunks = chunks;
  s->crc32.assign(chunks, 7);
  return s;
}

class PublisherCoreTest : public testing::Test {
 protected:
  void Make(std::size_t workers) {
    PublisherCoreOptions options;
    options.run = kRun;
    options.incarnation = 10;
    core = std::make_unique<PublisherCore>(options, workers, MonoTime{});
    d = std::make_unique<CoreDriver<PublisherCore, PublisherActions>>(*core);
    d->Collect();
  }
  void Offer(std::shared_ptr<const ModelSnapshot> s) {
    core->Offer(std::move(s), d->now);
    d->Collect();
  }
  void Ack(std::size_t w, std::uint64_t version, ModelState state, std::uint32_t chunks = 0,
           ErrorCode code = ErrorCode::kNone) {
    d->Say(w, ModelAck{{}, kRun, version, state, chunks, code, "text"});
  }
  // Begin, then all chunks; the number of bytes.
  std::size_t Receive(std::size_t w, std::uint64_t version) {
    const auto begin = d->Next<ModelBegin>(w);
    EXPECT_TRUE(begin && begin->version == version);
    std::size_t bytes = 0;
    std::uint32_t got = 0;
    while (begin && got < begin->chunks) {
      const auto chunk = d->Next<ModelChunk>(w);
      if (!chunk) break;
      EXPECT_EQ(chunk->index, got);
      bytes += chunk->bytes.size();
      Ack(w, version, ModelState::kReceiving, ++got);
    }
    EXPECT_TRUE(d->Next<ModelCommit>(w));
    return bytes;
  }

  std::unique_ptr<PublisherCore> core;
  std::unique_ptr<CoreDriver<PublisherCore, PublisherActions>> d;
};

TEST_F(PublisherCoreTest, SendsAVersionInChunksWithinTheWindow) {
  Make(1);
  d->Open(0);
  Offer(Snapshot(1));
  int in_flight = 0;
  for (const Message& m : d->sent[0]) in_flight += std::holds_alternative<ModelChunk>(m) ? 1 : 0;
  EXPECT_EQ(in_flight, 4);
  EXPECT_EQ(Receive(0, 1), 23u);
  Ack(0, 1, ModelState::kApplied);
  ASSERT_EQ(d->last.applied.size(), 1u);
  EXPECT_FALSE(d->last.applied[0].refused);
  EXPECT_EQ(core->applied(1), 1u);
  EXPECT_EQ(core->applied(2), 0u);
}

TEST_F(PublisherCoreTest, ASlowWorkerSkipsToTheNewest) {
  Make(1);
  d->Open(0);
  Offer(Snapshot(1));
  Offer(Snapshot(2));
  Offer(Snapshot(3));
  Receive(0, 1);
  Ack(0, 1, ModelState::kApplied);
  Receive(0, 3);
}

TEST_F(PublisherCoreTest, EachWorkerHasItsOwnPace) {
  Make(2);
  d->Open(0);
  d->Open(1);
  Offer(Snapshot(1));
  Receive(0, 1);
  Ack(0, 1, ModelState::kApplied);
  Offer(Snapshot(2));
  Receive(0, 2);
  EXPECT_EQ(core->applied(1), 1u);
  Receive(1, 1);
}

TEST_F(PublisherCoreTest, ANewSessionStartsTheTransferAnew) {
  Make(1);
  d->Open(0);
  Offer(Snapshot(1));
  d->Reopen(0, 1);
  EXPECT_EQ(Receive(0, 1), 23u);
}

TEST_F(PublisherCoreTest, AWorkerThatHasTheVersionGetsNothing) {
  Make(1);
  Offer(Snapshot(5));
  Welcome welcome;
  welcome.run = kRun;
  welcome.model_version = 5;
  d->Say(0, welcome);
  EXPECT_FALSE(d->Next<ModelBegin>(0));
  EXPECT_EQ(core->applied(5), 1u);
}

TEST_F(PublisherCoreTest, AnotherRunsVersionDoesNotCount) {
  Make(1);
  Offer(Snapshot(1));
  Welcome welcome;
  welcome.run = kRun - 1;
  welcome.model_version = 9;
  d->Say(0, welcome);
  EXPECT_TRUE(d->Next<ModelBegin>(0));
}

TEST_F(PublisherCoreTest, ADeltaGoesOnlyToItsPredecessor) {
  Make(2);
  d->Open(0);
  d->Open(1);
  Offer(Snapshot(1));
  Receive(0, 1);
  Ack(0, 1, ModelState::kApplied);
  Offer(Snapshot(2, ModelKind::kDelta));
  EXPECT_EQ(d->Next<ModelBegin>(0)->kind, ModelKind::kDelta);
  Ack(1, 1, ModelState::kRefused, 0, ErrorCode::kModelMismatch);
  EXPECT_EQ(d->Next<ModelBegin>(1)->version, 1u);
  EXPECT_FALSE(d->Next<ModelBegin>(1)) << "it has nothing that the delta stands on";
}

TEST_F(PublisherCoreTest, ARefusedVersionIsReportedAndNotSentAgain) {
  Make(1);
  d->Open(0);
  Offer(Snapshot(1));
  Receive(0, 1);
  Ack(0, 1, ModelState::kRefused, 0, ErrorCode::kModelNotFinite);
  ASSERT_EQ(d->last.applied.size(), 1u);
  EXPECT_TRUE(d->last.applied[0].refused);
  EXPECT_EQ(d->last.applied[0].code, ErrorCode::kModelNotFinite);
  EXPECT_FALSE(d->Next<ModelBegin>(0));
  Offer(Snapshot(2));
  EXPECT_TRUE(d->Next<ModelBegin>(0));
}

TEST_F(PublisherCoreTest, DamagedBytesAreSentAgainOverANewConnection) {
  Make(1);
  d->Open(0);
  Offer(Snapshot(1));
  Receive(0, 1);
  Ack(0, 1, ModelState::kRefused, 3, ErrorCode::kModelCorrupt);
  EXPECT_EQ(core->connected(), 0u);
  d->Tick(milliseconds(500));
  d->Open(0);
  Receive(0, 1);
}

TEST_F(PublisherCoreTest, TheArtifactGoesFirstWhereItMay) {
  Make(2);
  core->SetArtifact(Snapshot(0, ModelKind::kArtifact), d->now);
  Offer(Snapshot(1));
  Welcome welcome;
  welcome.needs_artifact = true;
  welcome.artifact_upload = true;
  d->Say(0, welcome);
  EXPECT_EQ(d->Next<ModelBegin>(0)->kind, ModelKind::kArtifact);
  Ack(0, 0, ModelState::kApplied);
  EXPECT_EQ(d->Next<ModelBegin>(0)->kind, ModelKind::kFull);
  welcome.artifact_upload = false;
  d->Say(1, welcome);
  ASSERT_EQ(d->last.applied.size(), 1u);
  EXPECT_EQ(d->last.applied[0].code, ErrorCode::kArtifactRefused);
  EXPECT_FALSE(d->Next<ModelBegin>(1));
}

// A bug once: a pool that is used again went on scoring with the job's before.
TEST_F(PublisherCoreTest, AWorkerWithAnotherJobsArtifactGetsThisOne) {
  Make(3);
  auto artifact = std::make_shared<ModelSnapshot>(*Snapshot(0, ModelKind::kArtifact));
  artifact->begin.sha256 = "\x01\xab";
  core->SetArtifact(artifact, d->now);
  Offer(Snapshot(1));
  Welcome welcome;
  welcome.artifact_upload = true;
  welcome.artifact_sha256 = "cdef";
  d->Say(0, welcome);
  EXPECT_EQ(d->Next<ModelBegin>(0)->kind, ModelKind::kArtifact);
  Ack(0, 0, ModelState::kApplied);
  EXPECT_EQ(d->Next<ModelBegin>(0)->version, 1u);
  welcome.artifact_sha256 = "01ab";
  d->Say(1, welcome);
  EXPECT_EQ(d->Next<ModelBegin>(1)->kind, ModelKind::kFull) << "it has it";
  welcome.artifact_sha256 = "cdef";
  welcome.artifact_upload = false;
  d->Say(2, welcome);
  EXPECT_EQ(d->Next<ModelBegin>(2)->kind, ModelKind::kFull) << "it takes no other";
}

TEST_F(PublisherCoreTest, ATransferWithoutAnswersEndsTheSession) {
  Make(1);
  d->Open(0);
  Offer(Snapshot(1));
  for (int i = 0; i < 30; ++i) {
    d->Tick(milliseconds(1000));
    d->Say(0, Heartbeat{});
    EXPECT_EQ(core->connected(), 1u);
  }
  d->Tick(milliseconds(1000));
  EXPECT_EQ(core->connected(), 0u);
}

}  // namespace
}  // namespace siftd
