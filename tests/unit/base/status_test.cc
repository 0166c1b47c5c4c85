// SPDX-License-Identifier: Apache-2.0
#include "pipeline/base/status.h"

#include <gtest/gtest.h>

namespace siftd {
namespace {

Result<int> Half(int n) {
  if (n % 2 != 0) return InvalidArgument("n is " + std::to_string(n) + "; allowed: even");
  return n / 2;
}

Result<int> Quarter(int n) {
  SIFTD_ASSIGN_OR_RETURN(const int half, Half(n));
  return Half(half);
}

TEST(Status, TextNamesCodeAndMessage) {
  EXPECT_EQ(OkStatus().ToString(), "OK");
  EXPECT_EQ(Unavailable("no peer").ToString(), "UNAVAILABLE: no peer");
}

TEST(Result, HoldsAValueOrItsStatus) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Quarter(6).status(), InvalidArgument("n is 3; allowed: even"));
}

}  // namespace
}  // namespace siftd
