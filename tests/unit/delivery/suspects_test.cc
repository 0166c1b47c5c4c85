// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/suspects.h"

#include <gtest/gtest.h>

namespace siftd {
namespace {

using Care = Suspects::Care;
constexpr BatchKey kKey{0, 0, 0};
constexpr BatchKey kOther{0, 0, 1};

TEST(Suspects, ACutLinkIsNoDeath) {
  Suspects s;
  EXPECT_FALSE(s.Welcomed(0, 10));
  s.Sent(0, kKey);
  EXPECT_FALSE(s.Welcomed(0, 10));
  EXPECT_EQ(s.CareFor(kKey), Care::kNone);
}

TEST(Suspects, ADrainIsNoDeath) {
  Suspects s;
  s.Welcomed(0, 10);
  s.Sent(0, kKey);
  s.Drained(0);
  EXPECT_FALSE(s.Welcomed(0, 11));
  EXPECT_EQ(s.CareFor(kKey), Care::kNone);
  s.Sent(0, kKey);
  EXPECT_TRUE(s.Welcomed(0, 12)) << "the drain was the last one's";
}

TEST(Suspects, ADeathMakesWhatItHeldSuspect) {
  Suspects s;
  s.Welcomed(0, 10);
  s.Welcomed(1, 20);
  s.Sent(0, kKey);
  s.Sent(1, kOther);
  const auto death = s.Welcomed(0, 11);
  ASSERT_TRUE(death);
  EXPECT_EQ(death->held, (std::vector<BatchKey>{kKey}));
  EXPECT_EQ(s.CareFor(kKey), Care::kAlone);
  EXPECT_EQ(s.CareFor(kOther), Care::kNone);
  EXPECT_EQ(s.size(), 1u);
}

TEST(Suspects, WhatWasReturnedOrSettledIsNotHeld) {
  Suspects s;
  s.Welcomed(0, 10);
  s.Sent(0, kKey);
  s.Returned(0, kKey);
  s.Sent(0, kOther);
  s.Forget(kOther);
  const auto death = s.Welcomed(0, 11);
  ASSERT_TRUE(death);
  EXPECT_TRUE(death->held.empty());
  EXPECT_EQ(s.size(), 0u);
}

TEST(Suspects, TwoDeathsAloneQuarantineTwoRelayedReject) {
  Suspects s;
  std::uint64_t incarnation = 1;
  s.Welcomed(0, incarnation);
  const Care expected[] = {Care::kNone,     Care::kAlone,    Care::kAlone,
                           Care::kUnscored, Care::kUnscored, Care::kRejected};
  for (const Care care : expected) {
    EXPECT_EQ(s.CareFor(kKey), care) << "after " << incarnation - 1 << " deaths";
    s.Sent(0, kKey);
    EXPECT_TRUE(s.Welcomed(0, ++incarnation));
  }
  s.Forget(kKey);
  EXPECT_EQ(s.CareFor(kKey), Care::kNone);
  EXPECT_EQ(s.size(), 0u);
}

}  // namespace
}  // namespace siftd
