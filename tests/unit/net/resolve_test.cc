// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/net/dealer_pool.h"

namespace siftd {
namespace {

using testing::ElementsAre;

TEST(ResolveEndpoint, AddressesStayAsTheyAre) {
  EXPECT_THAT(*ResolveEndpoint("tcp://10.1.2.3:7001"), ElementsAre("tcp://10.1.2.3:7001"));
  EXPECT_THAT(*ResolveEndpoint("tcp://[::1]:7001"), ElementsAre("tcp://[::1]:7001"));
  EXPECT_THAT(*ResolveEndpoint("ipc:///tmp/x"), ElementsAre("ipc:///tmp/x"));
}

TEST(ResolveEndpoint, LocalhostIsOneWorker) {
  EXPECT_THAT(*ResolveEndpoint("tcp://localhost:7001"), ElementsAre("tcp://127.0.0.1:7001"));
}

TEST(ResolveEndpoint, BadOnesAreRefusedByValue) {
  EXPECT_THAT(ResolveEndpoint("tcp://host").status().message(), testing::HasSubstr("'tcp://host'"));
  EXPECT_EQ(ResolveEndpoint("tcp://no.such.host.invalid:1").status().code(), Code::kUnavailable);
}

}  // namespace
}  // namespace siftd
