// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/status_json.h"

#include <google/protobuf/util/json_util.h>

#include "pipeline/wire/message_codec.h"

namespace siftd {

std::string StatusJson(const StatusReply& status) {
  v1::StatusReply proto;
  Frames frames(2);
  wire::To(status, &proto, &frames);
  proto.clear_session();
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(proto, &json, options).ok()) return "{}";
  return json;
}

}  // namespace siftd
