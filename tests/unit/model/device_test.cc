// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siftd {
namespace {

TEST(Device, ParsesItsNames) {
  EXPECT_EQ(ToString(*ParseDevice("cpu")), "cpu");
  EXPECT_EQ(ToString(*ParseDevice("cuda")), "cuda:0");
  EXPECT_EQ(ToString(*ParseDevice("cuda:3")), "cuda:3");
}

TEST(Device, RefusesOthers) {
  for (const char* bad : {"", "tpu", "cpu:1", "cuda:", "cuda:x", "cuda:-1", "cuda:1x"}) {
    EXPECT_FALSE(ParseDevice(bad).ok()) << bad;
  }
}

TEST(Device, ADeviceThatIsNotThereIsAnError) {
  EXPECT_TRUE(ProbeDevice({"cpu", 0}).ok());
  EXPECT_EQ(ProbeDevice({"cuda", 99}).code(), Code::kUnavailable);
}

}  // namespace
}  // namespace siftd
