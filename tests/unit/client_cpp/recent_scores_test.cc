// SPDX-License-Identifier: Apache-2.0
#include "siftd/recent_scores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace siftd {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(RecentScores, AreTheLastFiniteOnesOldestFirst) {
  RecentScores recent(4);
  recent.Add({1, std::numeric_limits<float>::quiet_NaN(), 2});
  EXPECT_THAT(recent.Sample(), ElementsAre(1, 2));
  recent.Add({3, std::numeric_limits<float>::infinity(), 4, 5, 6});
  EXPECT_THAT(recent.Sample(), ElementsAre(3, 4, 5, 6));
  recent.Add({7, 8, 9, 10, 11});
  EXPECT_THAT(recent.Sample(), ElementsAre(8, 9, 10, 11));
}

TEST(RecentScores, OfAPolicyWithoutHistoryAreNone) {
  RecentScores none(0);
  none.Add({1, 2});
  EXPECT_THAT(none.Sample(), IsEmpty());
}

}  // namespace
}  // namespace siftd
