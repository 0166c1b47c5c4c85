// SPDX-License-Identifier: Apache-2.0
// Reads the files of tests/conformance/vectors/. For tests only.
#pragma once

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "pipeline/base/frame.h"

namespace siftd {

// A vector of the file: its texts by name.
using JsonValue = google::protobuf::Value;
using JsonObject = google::protobuf::Struct;

// Empty, with a test failure, if the file cannot be read.
inline JsonValue ReadVectors(const std::string& name) {
  std::ifstream file(SIFTD_VECTORS + name);
  std::ostringstream text;
  text << file.rdbuf();
  JsonValue value;
  const auto status = google::protobuf::util::JsonStringToMessage(text.str(), &value);
  EXPECT_TRUE(status.ok()) << name << ": " << status.ToString();
  return value;
}

inline const std::string& Text(const JsonObject& object, const std::string& name) {
  return object.fields().at(name).string_value();
}

// `hex` in memory of its own, so that a sanitizer sees a read beyond its end.
inline Frame FromHex(const std::string& hex) {
  std::vector<std::uint8_t> bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::uint8_t>(std::stoul(hex.substr(i, 2), nullptr, 16)));
  }
  return Frame::Adopt(std::move(bytes));
}

inline Frames FramesOf(const JsonObject& object) {
  Frames frames;
  for (const JsonValue& hex : object.fields().at("frames").list_value().values()) {
    frames.push_back(FromHex(hex.string_value()));
  }
  return frames;
}

}  // namespace siftd
