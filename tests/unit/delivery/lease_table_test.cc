// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/lease_table.h"

#include <gtest/gtest.h>

namespace siftd {
namespace {

constexpr MonoTime kStart{};

Candidates Batch(std::uint64_t seq, std::uint64_t pass = 0) {
  Candidates c;
  c.key = {0, pass, seq};
  c.sample_id = {seq};
  return c;
}

const auto kAny = [](const BatchKey&) { return true; };

TEST(LeaseTable, SendsOldestFirstAlsoAfterAReturn) {
  LeaseTable leases;
  for (const std::uint64_t seq : {0, 1, 2}) ASSERT_TRUE(leases.Add(Batch(seq), kStart));
  leases.Send({0, 0, 0}, 1, kStart);
  leases.Send({0, 0, 1}, 0, kStart);
  EXPECT_EQ(leases.OldestWaiting(kAny)->batch.key.seq, 2u);
  EXPECT_TRUE(leases.Return({0, 0, 0}, 1));
  EXPECT_EQ(leases.OldestWaiting(kAny)->batch.key.seq, 0u);
}

TEST(LeaseTable, CountsAttempts) {
  LeaseTable leases;
  ASSERT_TRUE(leases.Add(Batch(0), kStart));
  EXPECT_EQ(leases.Send({0, 0, 0}, 0, kStart).batch.attempt, 0u);
  leases.ReturnAll(0);
  EXPECT_EQ(leases.Send({0, 0, 0}, 1, kStart).batch.attempt, 1u);
}

TEST(LeaseTable, RefusesAKeyTwice) {
  LeaseTable leases;
  ASSERT_TRUE(leases.Add(Batch(0), kStart));
  EXPECT_FALSE(leases.Add(Batch(0), kStart));
  EXPECT_EQ(leases.size(), 1u);
}

TEST(LeaseTable, ALostWorkerGivesBackOnlyItsOwn) {
  LeaseTable leases;
  for (const std::uint64_t seq : {0, 1, 2}) ASSERT_TRUE(leases.Add(Batch(seq), kStart));
  leases.Send({0, 0, 0}, 0, kStart);
  leases.Send({0, 0, 1}, 1, kStart);
  leases.Send({0, 0, 2}, 0, kStart);
  EXPECT_EQ(leases.ReturnAll(0), 2u);
  EXPECT_EQ(leases.waiting(), 2u);
  EXPECT_EQ(leases.out(1), 1u);
  EXPECT_EQ(leases.out(0), 0u);
}

TEST(LeaseTable, AReturnByAWorkerThatHasItNoMoreIsIgnored) {
  LeaseTable leases;
  ASSERT_TRUE(leases.Add(Batch(0), kStart));
  leases.Send({0, 0, 0}, 0, kStart);
  leases.ReturnAll(0);
  leases.Send({0, 0, 0}, 1, kStart);
  EXPECT_FALSE(leases.Return({0, 0, 0}, 0));
  EXPECT_EQ(leases.out(1), 1u);
}

TEST(LeaseTable, SettlesWhereverTheLeaseIs) {
  LeaseTable leases;
  ASSERT_TRUE(leases.Add(Batch(0), kStart));
  ASSERT_TRUE(leases.Add(Batch(1), kStart));
  leases.Send({0, 0, 0}, 0, kStart);
  EXPECT_TRUE(leases.Settle({0, 0, 0}));
  EXPECT_TRUE(leases.Settle({0, 0, 1}));
  EXPECT_FALSE(leases.Settle({0, 0, 1}));
  EXPECT_EQ(leases.size() + leases.waiting() + leases.out(0), 0u);
}

TEST(LeaseTable, FindsLateOnesAndTheOldest) {
  LeaseTable leases;
  EXPECT_FALSE(leases.oldest());
  ASSERT_TRUE(leases.Add(Batch(0), kStart));
  ASSERT_TRUE(leases.Add(Batch(1), kStart + milliseconds(5)));
  leases.Send({0, 0, 1}, 2, kStart + milliseconds(10));
  EXPECT_EQ(leases.oldest(), kStart);
  EXPECT_TRUE(leases.SentBefore(kStart + milliseconds(10)).empty());
  const auto late = leases.SentBefore(kStart + milliseconds(11));
  ASSERT_EQ(late.size(), 1u);
  EXPECT_EQ(late[0].first.seq, 1u);
  EXPECT_EQ(late[0].second, 2u);
}

TEST(LeaseTable, DropsAPassAndKeepsTheOthers) {
  LeaseTable leases;
  ASSERT_TRUE(leases.Add(Batch(0, 0), kStart));
  ASSERT_TRUE(leases.Add(Batch(0, 1), kStart));
  leases.Send({0, 0, 0}, 0, kStart);
  const auto dropped = leases.DropPass(0);
  ASSERT_EQ(dropped.size(), 1u);
  EXPECT_EQ(dropped[0].batch.key, (BatchKey{0, 0, 0}));
  EXPECT_EQ(leases.size(), 1u);
  EXPECT_EQ(leases.out(0), 0u);
}

}  // namespace
}  // namespace siftd
