// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/sifting_window.h"

#include <gtest/gtest.h>

namespace siftd {
namespace {

TEST(SiftingWindow, DelayCountsTrainerSteps) {
  SiftingWindow window({.sift_delay = 10}, 0);
  EXPECT_FALSE(window.InForce({0, 0, 0}, 0, 9));
  EXPECT_TRUE(window.InForce({0, 0, 1}, 0, 10));
  EXPECT_TRUE(window.InForce({0, 1, 0}, 1, 11));
}

TEST(SiftingWindow, DelayRepeatsPerEpoch) {
  SiftingWindow window({.sift_delay = 5, .repeat_delay_per_epoch = true}, 0);
  EXPECT_FALSE(window.InForce({0, 0, 0}, 0, 0));
  EXPECT_TRUE(window.InForce({0, 0, 1}, 0, 5));
  EXPECT_FALSE(window.InForce({0, 1, 0}, 1, 100));
  EXPECT_FALSE(window.InForce({0, 1, 1}, 1, 104));
  EXPECT_TRUE(window.InForce({0, 1, 2}, 1, 105));
}

TEST(SiftingWindow, StartAndEndAreFractionsOfTheRun) {
  SiftingWindow window({.start = 0.1, .end = 0.8}, 100);
  EXPECT_FALSE(window.InForce({0, 0, 0}, 0, 9));
  EXPECT_TRUE(window.InForce({0, 0, 0}, 0, 10));
  EXPECT_TRUE(window.InForce({0, 0, 0}, 0, 79));
  EXPECT_FALSE(window.InForce({0, 0, 0}, 0, 80));
}

TEST(SiftingWindow, UnknownTotalIgnoresStartAndEnd) {
  SiftingWindow window({.start = 0.5, .end = 0.6}, 0);
  EXPECT_TRUE(window.InForce({0, 0, 0}, 0, 0));
}

// Composer: `(batch_idx + 1) % interrupt != 0`.
TEST(SiftingWindow, EveryNthBatchIsLeftAlone) {
  SiftingWindow window({.interrupt = 3}, 0);
  EXPECT_TRUE(window.InForce({0, 0, 0}, 0, 0));
  EXPECT_TRUE(window.InForce({0, 0, 1}, 0, 0));
  EXPECT_FALSE(window.InForce({0, 0, 2}, 0, 0));
  EXPECT_TRUE(window.InForce({0, 0, 3}, 0, 0));
}

}  // namespace
}  // namespace siftd
