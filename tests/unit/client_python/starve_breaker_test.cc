// SPDX-License-Identifier: Apache-2.0
#include "client/python/native/starve_breaker.h"

#include <gtest/gtest.h>

namespace siftd {
namespace {

constexpr Duration kTimeout = milliseconds(100);

MonoTime At(int ms) { return MonoTime(milliseconds(ms)); }

TEST(StarveBreaker, OpensAfterTheTimeoutWithoutABatch) {
  StarveBreaker breaker(kTimeout);
  EXPECT_FALSE(breaker.Look(true, At(0)));
  EXPECT_FALSE(breaker.Look(true, At(99)));
  EXPECT_FALSE(breaker.open());
  EXPECT_TRUE(breaker.Look(true, At(100)));
  EXPECT_TRUE(breaker.open());
  EXPECT_FALSE(breaker.Look(true, At(500))) << "it is open already";
}

TEST(StarveBreaker, ABatchInBetweenBeginsTheWaitAnew) {
  StarveBreaker breaker(kTimeout);
  breaker.Look(true, At(0));
  breaker.Look(false, At(90));
  EXPECT_FALSE(breaker.Look(true, At(110)));
  EXPECT_FALSE(breaker.Look(true, At(209)));
  EXPECT_TRUE(breaker.Look(true, At(210)));
}

TEST(StarveBreaker, ClosesAfterThreeQuickVerdictsInARow) {
  StarveBreaker breaker(kTimeout);
  breaker.Look(true, At(0));
  breaker.Look(true, At(100));
  EXPECT_FALSE(breaker.Late(milliseconds(10)));
  EXPECT_FALSE(breaker.Late(milliseconds(10)));
  EXPECT_FALSE(breaker.Late(milliseconds(101))) << "a slow one begins the count anew";
  EXPECT_FALSE(breaker.Late(milliseconds(100)));
  EXPECT_FALSE(breaker.Late(milliseconds(100)));
  EXPECT_TRUE(breaker.open());
  EXPECT_TRUE(breaker.Late(milliseconds(100)));
  EXPECT_FALSE(breaker.open());
  EXPECT_FALSE(breaker.Look(true, At(200))) << "the wait begins anew";
}

}  // namespace
}  // namespace siftd
