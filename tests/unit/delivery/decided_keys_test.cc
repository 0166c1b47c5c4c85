// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/decided_keys.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace siftd {
namespace {

TEST(DecidedKeys, HoldsWhatWasInserted) {
  DecidedKeys keys;
  EXPECT_TRUE(keys.Insert({1, 2, 3}));
  EXPECT_FALSE(keys.Insert({1, 2, 3}));
  EXPECT_TRUE(keys.Contains({1, 2, 3}));
  EXPECT_FALSE(keys.Contains({1, 2, 4}));
  EXPECT_FALSE(keys.Contains({0, 2, 3}));
  EXPECT_EQ(keys.count(), 1u);
}

TEST(DecidedKeys, NeighboursBecomeOneInterval) {
  DecidedKeys keys;
  for (const std::uint64_t seq : {4, 0, 2, 1, 3}) keys.Insert({0, 0, seq});
  const DecidedSet set = keys.Export();
  ASSERT_EQ(set.intervals.size(), 1u);
  EXPECT_EQ(set.intervals[0], (DecidedInterval{0, 0, 0, 5}));
}

TEST(DecidedKeys, ACompletePassHasEverySeqFromZero) {
  DecidedKeys keys;
  keys.Insert({0, 0, 1});
  keys.Insert({0, 0, 2});
  EXPECT_FALSE(keys.Complete(0, 0, 3));
  EXPECT_EQ(keys.CountBelow(0, 0, 2), 1u);
  keys.Insert({0, 0, 0});
  EXPECT_TRUE(keys.Complete(0, 0, 3));
  EXPECT_TRUE(keys.Complete(0, 0, 2));
  EXPECT_FALSE(keys.Complete(0, 0, 4));
  EXPECT_TRUE(keys.Complete(7, 7, 0)) << "a pass without batches";
}

TEST(DecidedKeys, NextPassWaitsForLowerPasses) {
  DecidedKeys keys;
  keys.Insert({0, 1, 0});
  keys.Close(0, 1);
  EXPECT_EQ(keys.next_pass(0), 0u);
  EXPECT_TRUE(keys.Closed(0, 1));
  EXPECT_TRUE(keys.Contains({0, 1, 99}));
  keys.Close(0, 0);
  EXPECT_EQ(keys.next_pass(0), 2u);
  EXPECT_TRUE(keys.Export().intervals.empty());
  EXPECT_FALSE(keys.Insert({0, 1, 5}));
}

TEST(DecidedKeys, ExportOfOneLoaderLeavesOthersOut) {
  DecidedKeys keys;
  keys.Insert({0, 0, 0});
  keys.Insert({3, 1, 0});
  keys.Close(3, 0);
  const DecidedSet set = keys.Export(3);
  ASSERT_EQ(set.intervals.size(), 1u);
  EXPECT_EQ(set.intervals[0].loader, 3u);
  ASSERT_EQ(set.next_pass.size(), 4u);
  EXPECT_EQ(set.next_pass[3], 1u);
  EXPECT_EQ(set.next_pass[0], 0u);
}

TEST(DecidedKeys, IgnoresEmptyAndInvertedIntervals) {
  DecidedSet set;
  set.intervals = {{0, 0, 5, 5}, {0, 0, 9, 2}};
  DecidedKeys keys(set);
  EXPECT_FALSE(keys.Contains({0, 0, 5}));
  EXPECT_EQ(keys.count(), 0u);
}

// Against a plain set, over random inserts, merges and round trips.
TEST(DecidedKeys, AgreesWithAPlainSet) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    DecidedKeys keys;
    std::set<BatchKey> plain;
    for (int i = 0; i < 120; ++i) {
      const BatchKey key{static_cast<std::uint32_t>(random() % 2), random() % 2, random() % 60};
      if (random() % 8 == 0) {
        const std::uint64_t end = key.seq + 1 + random() % 10;
        DecidedSet set;
        set.intervals = {{key.loader, key.pass, key.seq, end}};
        keys.Merge(set);
        for (std::uint64_t s = key.seq; s < end; ++s) plain.insert({key.loader, key.pass, s});
      } else {
        EXPECT_EQ(keys.Insert(key), plain.insert(key).second);
      }
    }
    const DecidedKeys copy(keys.Export());
    EXPECT_EQ(keys.count(), plain.size());
    EXPECT_EQ(copy.count(), plain.size());
    for (std::uint32_t l = 0; l < 2; ++l) {
      for (std::uint64_t p = 0; p < 2; ++p) {
        for (std::uint64_t s = 0; s < 75; ++s) {
          ASSERT_EQ(keys.Contains({l, p, s}), plain.contains({l, p, s}));
          ASSERT_EQ(copy.Contains({l, p, s}), plain.contains({l, p, s}));
        }
      }
    }
  }
}

}  // namespace
}  // namespace siftd
