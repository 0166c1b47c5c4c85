// SPDX-License-Identifier: Apache-2.0
#include "pipeline/base/rate_limit.h"

#include <gtest/gtest.h>

namespace siftd {
namespace {

int TakeAll(RateLimit& limit, const std::string& who, MonoTime now) {
  int taken = 0;
  while (limit.Take(who, now)) ++taken;
  return taken;
}

TEST(RateLimit, TenSecondsWorthAtOnceThenTheRate) {
  RateLimit limit(3);
  MonoTime now{};
  EXPECT_EQ(TakeAll(limit, "a", now), 30);
  now += std::chrono::seconds(2);
  EXPECT_EQ(TakeAll(limit, "a", now), 6);
  now += std::chrono::hours(1);
  EXPECT_EQ(TakeAll(limit, "a", now), 30);
}

TEST(RateLimit, EachNameHasItsOwn) {
  RateLimit limit(1);
  const MonoTime now{};
  EXPECT_EQ(TakeAll(limit, "a", now), 10);
  EXPECT_EQ(TakeAll(limit, "b", now), 10);
}

TEST(RateLimit, ManyNamesPushNobodyOutWhoIsAtHisLimit) {
  RateLimit limit(1);
  MonoTime now{};
  EXPECT_EQ(TakeAll(limit, "busy", now), 10);
  for (int i = 0; i < 5000; ++i) (void)limit.Take("n" + std::to_string(i), now);
  EXPECT_FALSE(limit.Take("busy", now));
  EXPECT_FALSE(limit.Take("one more", now)) << "no room for another name now";
  now += std::chrono::seconds(20);
  EXPECT_TRUE(limit.Take("one more", now));
}

}  // namespace
}  // namespace siftd
