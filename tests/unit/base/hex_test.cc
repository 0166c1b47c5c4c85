// SPDX-License-Identifier: Apache-2.0
#include "pipeline/base/hex.h"

#include <gtest/gtest.h>

namespace siftd {
namespace {

TEST(Hex, IsLowerCase) { EXPECT_EQ(Hex(std::string("\x00\xAF\xff", 3)), "00afff"); }

}  // namespace
}  // namespace siftd
