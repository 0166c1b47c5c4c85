// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/given_up.h"

#include <gtest/gtest.h>

namespace siftd {
namespace {

TEST(GivenUp, IsTakenOnce) {
  GivenUp given_up;
  const MonoTime sent{milliseconds(7)};
  given_up.Add({0, 1, 2}, sent);
  EXPECT_EQ(given_up.Take({0, 1, 3}), std::nullopt);
  EXPECT_EQ(given_up.Take({0, 1, 2}), sent);
  EXPECT_EQ(given_up.Take({0, 1, 2}), std::nullopt);
}

TEST(GivenUp, RemembersTheNewest) {
  GivenUp given_up;
  for (std::uint64_t seq = 0; seq <= GivenUp::kMost; ++seq) given_up.Add({0, 0, seq}, MonoTime{});
  EXPECT_EQ(given_up.Take({0, 0, 0}), std::nullopt);
  EXPECT_TRUE(given_up.Take({0, 0, 1}));
  EXPECT_TRUE(given_up.Take({0, 0, GivenUp::kMost}));
}

}  // namespace
}  // namespace siftd
