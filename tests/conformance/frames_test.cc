// SPDX-License-Identifier: Apache-2.0
#include <google/protobuf/descriptor.h>
#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/text_format.h>

#include <memory>
#include <set>

#include "pipeline/wire/codec.h"
#include "siftd/v1/wire.pb.h"
#include "tests/conformance/vectors.h"

namespace siftd {
namespace {

std::unique_ptr<google::protobuf::Message> NewHeader(const std::string& name) {
  const auto* type = v1::Hello::descriptor()->file()->FindMessageTypeByName(name);
  return std::unique_ptr<google::protobuf::Message>(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(type)->New());
}

TEST(ConformanceFrames, HeadersSayWhatTheirTextSays) {
  const JsonValue vectors = ReadVectors("valid.json");
  ASSERT_GT(vectors.list_value().values_size(), 0);
  for (const JsonValue& value : vectors.list_value().values()) {
    const JsonObject& vector = value.struct_value();
    SCOPED_TRACE(Text(vector, "name"));
    const Frames frames = FramesOf(vector);
    const auto header = NewHeader(Text(vector, "message"));
    ASSERT_TRUE(header->ParseFromArray(frames[1].data(), static_cast<int>(frames[1].size())));
    header->DiscardUnknownFields();
    const auto text = NewHeader(Text(vector, "message"));
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(Text(vector, "header"), text.get()));
    EXPECT_EQ(header->SerializeAsString(), text->SerializeAsString());
  }
}

TEST(ConformanceFrames, ValidOnesAreDecodedAndEncodedAlike) {
  const JsonValue vectors = ReadVectors("valid.json");
  std::set<std::string> messages;
  for (const JsonValue& value : vectors.list_value().values()) {
    const JsonObject& vector = value.struct_value();
    SCOPED_TRACE(Text(vector, "name"));
    const Frames frames = FramesOf(vector);
    const auto message = Decode(frames);
    ASSERT_TRUE(message.ok()) << message.status().ToString();
    EXPECT_EQ(MessageName(*message), Text(vector, "message"));
    messages.insert(Text(vector, "message"));
    const Frames again = Encode(*message);
    if (vector.fields().at("canonical").bool_value()) {
      ASSERT_EQ(again.size(), frames.size());
      for (std::size_t i = 0; i < again.size(); ++i) {
        EXPECT_EQ(again[i].view(), frames[i].view()) << "frame " << i;
      }
    }
    const auto twice = Decode(again);
    ASSERT_TRUE(twice.ok()) << twice.status().ToString();
    const Frames stable = Encode(*twice);
    for (std::size_t i = 0; i < again.size(); ++i) EXPECT_EQ(stable[i].view(), again[i].view());
  }
  EXPECT_EQ(messages.size(), std::variant_size_v<Message>) << "a message type has no vector";
}

struct MalformedVector {
  std::string name;
  std::string field;  // that the error names
  Frames frames;
};

void PrintTo(const MalformedVector& vector, std::ostream* out) { *out << vector.name; }

std::vector<MalformedVector> Malformed() {
  std::vector<MalformedVector> vectors;
  const JsonValue file = ReadVectors("malformed.json");
  for (const JsonValue& value : file.list_value().values()) {
    const JsonObject& vector = value.struct_value();
    vectors.push_back({Text(vector, "name"), Text(vector, "field"), FramesOf(vector)});
  }
  return vectors;
}

// One test for each vector, by its name.
class ConformanceMalformed : public testing::TestWithParam<MalformedVector> {};

TEST_P(ConformanceMalformed, IsRefusedByTheFieldAtFault) {
  const auto message = Decode(GetParam().frames);
  ASSERT_FALSE(message.ok());
  const std::string& text = message.status().message();
  EXPECT_NE(text.find(GetParam().field + " is "), std::string::npos) << text;
  EXPECT_NE(text.find("; allowed: "), std::string::npos) << text;
}

INSTANTIATE_TEST_SUITE_P(Vectors, ConformanceMalformed, testing::ValuesIn(Malformed()),
                         [](const auto& vector) { return vector.param.name; });

}  // namespace
}  // namespace siftd
