// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/status_json.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include "siftd/v1/wire.pb.h"

namespace siftd {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(StatusJson, NamesAreTheProtocolsAndZerosAreShown) {
  StatusReply status;
  status.session = {7, 1};
  status.worker_name = "w0";
  status.peers.push_back({Role::kLoader, "node \"0\"", 1, 2, 3, 0.5});
  status.errors["BAD_TENSOR"] = 2;
  const std::string json = StatusJson(status);
  EXPECT_THAT(json, HasSubstr("\"worker_name\": \"w0\""));
  EXPECT_THAT(json, HasSubstr("\"model_refused\": \"0\""));
  EXPECT_THAT(json, HasSubstr("\"BAD_TENSOR\": \"2\""));
  EXPECT_THAT(json, Not(HasSubstr("session\":")));

  v1::StatusReply again;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(json, &again).ok()) << json;
  EXPECT_EQ(again.peer(0).name(), "node \"0\"");
  EXPECT_EQ(again.peer(0).role(), v1::ROLE_LOADER);
}

TEST(StatusJson, InvalidTextDoesNotEmptyIt) {
  StatusReply status;
  status.not_ready_reason.assign(1, '\xff');
  EXPECT_THAT(StatusJson(status), HasSubstr("\"not_ready_reason\": \"?\""));
}

}  // namespace
}  // namespace siftd
