// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/epoch_book.h"

#include <gtest/gtest.h>

namespace siftd {
namespace {

EpochEnd End(std::uint32_t loader, std::uint64_t pass, std::uint64_t batches, bool final = false) {
  return {{}, 1, loader, pass, static_cast<std::uint32_t>(pass), batches, final};
}

TEST(EpochBook, AnEpochNeedsAllLoadersAndAllKeys) {
  EpochBook book(2, 0, 1, true);
  DecidedKeys decided;
  decided.Insert({0, 0, 0});
  book.Record(End(0, 0, 1));
  EXPECT_FALSE(book.TakeCompleted(decided)) << "loader 1 has not ended";
  EXPECT_EQ(book.Missing(decided), "loader 1 has not ended its pass");
  book.Record(End(1, 0, 2));
  decided.Insert({1, 0, 1});
  EXPECT_FALSE(book.TakeCompleted(decided)) << "a key is missing";
  EXPECT_EQ(book.Missing(decided), "loader 1: 1 of 2 batches of pass 0 decided");
  decided.Insert({1, 0, 0});
  const auto done = book.TakeCompleted(decided);
  ASSERT_TRUE(done);
  EXPECT_EQ(done->passes.size(), 2u);
  EXPECT_FALSE(book.TakeCompleted(decided));
}

TEST(EpochBook, ARepeatedEndCountsOnce) {
  EpochBook book(2, 0, 1, true);
  DecidedKeys decided;
  book.Record(End(0, 0, 0));
  book.Record(End(0, 0, 0));
  EXPECT_FALSE(book.TakeCompleted(decided));
}

TEST(EpochBook, AFinishedLoaderIsNotWaitedFor) {
  EpochBook book(2, 0, 1, true);
  const DecidedKeys decided;
  book.Record(End(0, 0, 0, true));
  book.Record(End(1, 0, 0));
  ASSERT_TRUE(book.TakeCompleted(decided));
  EXPECT_FALSE(book.AllFinal());
  book.Record(End(1, 1, 0, true));
  const auto done = book.TakeCompleted(decided);
  ASSERT_TRUE(done);
  EXPECT_EQ(done->epoch, 1u);
  EXPECT_TRUE(book.AllFinal());
}

TEST(EpochBook, MixedPassesCompleteOneByOne) {
  EpochBook book(4, 1, 2, false);  // loaders 1 and 3
  DecidedKeys decided;
  book.Record(End(1, 0, 2));
  book.Record(End(1, 1, 1));
  decided.Insert({1, 1, 0});
  const auto done = book.TakeCompleted(decided);
  ASSERT_TRUE(done);
  ASSERT_EQ(done->passes.size(), 1u);
  EXPECT_EQ(done->passes[0].pass, 1u);
  EXPECT_FALSE(book.TakeCompleted(decided));
}

}  // namespace
}  // namespace siftd
