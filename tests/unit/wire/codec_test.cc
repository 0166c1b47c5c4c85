// SPDX-License-Identifier: Apache-2.0
// What the golden frames of tests/conformance do not show: no copies, text that is cut, sizes that
// would not fit into a file of vectors.
#include "pipeline/wire/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pipeline/wire/limits.h"

namespace siftd {
namespace {

using testing::HasSubstr;

Candidates TwoRows() {
  Candidates m;
  m.session = {5, 1};
  m.run = 9;
  m.key = {1, 2, 3};
  m.sample_id = {10, 11};
  m.tensors.push_back({"x", DType::kFloat32, {2, 3}, Frame::Adopt(std::string(24, 'x'))});
  m.tensors.push_back({"y", DType::kInt64, {2}, Frame::Adopt(std::string(16, 'y'))});
  return m;
}

Frames Raw(std::uint8_t type, std::string header) {
  Frames frames;
  frames.push_back(Frame::Adopt(std::vector<std::uint8_t>{'S', 'F', 'T', 'D', 1, type, 0, 0}));
  frames.push_back(Frame::Adopt(std::move(header)));
  return frames;
}

template <typename T>
T RoundTrip(const T& message) {
  auto decoded = Decode(Encode(message));
  EXPECT_TRUE(decoded.ok()) << decoded.status().ToString();
  return std::get<T>(*decoded);
}

TEST(Codec, PayloadIsNeverCopied) {
  const Candidates m = TwoRows();
  const Frames frames = Encode(m);
  ASSERT_EQ(frames.size(), 4u);
  EXPECT_EQ(frames[2].data(), m.tensors[0].bytes.data());
  const auto decoded = Decode(frames);
  ASSERT_TRUE(decoded.ok()) << decoded.status().ToString();
  const auto& again = std::get<Candidates>(*decoded);
  EXPECT_EQ(again.tensors[0].bytes.data(), m.tensors[0].bytes.data());
  EXPECT_EQ(again.tensors[1].bytes.owner(), m.tensors[1].bytes.owner());
}

TEST(Codec, TensorsOutliveTheFramesTheyCameIn) {
  Frames frames = Encode(TwoRows());
  auto decoded = Decode(frames);
  frames.clear();
  EXPECT_EQ(std::get<Candidates>(*decoded).tensors[1].bytes.view(), std::string(16, 'y'));
}

TEST(Codec, FramesThatAreUsedAgainHoldTheNewMessageOnly) {
  Frames frames;
  Encode(TwoRows(), &frames);
  const Frame earlier = frames[1];
  const std::string bytes(earlier.view());
  Encode(Credit{{5, 1}, 2, 3}, &frames);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(std::get<Credit>(*Decode(frames)).bytes, 3u);
  EXPECT_EQ(earlier.view(), bytes);
}

TEST(Codec, PeekTypeReadsThePreambleOnly) {
  const auto type = PeekType(Raw(4, "no header at all"));
  ASSERT_TRUE(type.ok());
  EXPECT_EQ(*type, 4);
  EXPECT_FALSE(PeekType({}).ok());
}

TEST(Codec, ErrorsNameTheMessageTheFieldTheValueAndTheRange) {
  Candidates m = TwoRows();
  m.prior_score = {1.0f};
  EXPECT_EQ(Decode(Encode(m)).status().message(),
            "Candidates: prior_score's length is 1; allowed: 0 or 2");
}

TEST(Codec, TextIsCutToWhatAPeerAccepts) {
  ErrorMessage m;
  m.text = std::string(10'000, 'e');
  m.hint = "bad \xff\xc3\x28 end \xe2\x82\xac \xed\xa0\x80 \xf0\x9f\x98\x80";
  const ErrorMessage again = RoundTrip(m);
  EXPECT_EQ(again.text, std::string(limits::kMaxTextBytes, 'e'));
  EXPECT_EQ(again.hint,
            "bad ?"
            "?( end \xe2\x82\xac ??? \xf0\x9f\x98\x80");
}

TEST(Codec, ACharacterIsNotCutInHalf) {
  Drain m;
  m.reason = std::string(limits::kMaxTextBytes - 1, 'r') + "\xe2\x82\xac";
  EXPECT_EQ(RoundTrip(m).reason, std::string(limits::kMaxTextBytes - 1, 'r') + "?");
}

TEST(Codec, ALongRejectionStillReachesItsRank) {
  Selected m;
  m.decision = RejectedDecision(4, ErrorCode::kScoringFailed, std::string(100'000, 't'));
  const Selected again = RoundTrip(m);
  EXPECT_EQ(again.decision.code, ErrorCode::kScoringFailed);
  EXPECT_EQ(again.decision.text.size(), limits::kMaxTextBytes);
}

TEST(Codec, HeaderAboveItsLimitIsRefused) {
  const auto message = Decode(Raw(1, std::string(limits::kMaxHeaderBytes + 1, '\0')));
  ASSERT_FALSE(message.ok());
  EXPECT_THAT(message.status().message(),
              HasSubstr("header's bytes is 16777217; allowed: at most"));
}

// Each two-byte field would become a TensorDesc of some 80 bytes.
TEST(Codec, CountlessTinyFieldsAreRefusedUnparsed) {
  std::string header;
  for (std::size_t i = 0; i <= limits::kMaxHeaderFields; ++i) header += std::string("\x42\x00", 2);
  const auto message = Decode(Raw(4, std::move(header)));
  ASSERT_FALSE(message.ok());
  EXPECT_THAT(message.status().message(), HasSubstr("header's fields is 100001; allowed: at most"));
}

TEST(Codec, ALargePackedArrayIsOneField) {
  Candidates m;
  m.sample_id.resize(limits::kMaxRows, 7);
  m.tensors.push_back({"x", DType::kUInt8, {1 << 20}, Frame::Adopt(std::string(1 << 20, 'x'))});
  EXPECT_EQ(RoundTrip(m).sample_id.size(), limits::kMaxRows);
}

TEST(Codec, TooManyRowsAreRefused) {
  Candidates m;
  m.sample_id.resize(limits::kMaxRows + 1);
  EXPECT_THAT(Decode(Encode(m)).status().message(), HasSubstr("sample_id's length is 1048577"));
}

TEST(Codec, TooManyKeysAreRefused) {
  Ack m;
  m.keys.resize(limits::kMaxKeys + 1);
  m.kept.resize(m.keys.size());
  EXPECT_THAT(Decode(Encode(m)).status().message(), HasSubstr("keys' length is 65537"));
}

TEST(Codec, ABrokenLengthBeyondTheHeaderIsRefused) {
  std::string header(2 * limits::kMaxHeaderFields + 1, '\0');
  header[0] = 0x42;
  header[1] = header[2] = header[3] = static_cast<char>(0xff);
  header[4] = 0x7f;
  EXPECT_FALSE(Decode(Raw(4, std::move(header))).ok());
}

TEST(Codec, MessageNameIsTheProtocols) {
  EXPECT_EQ(MessageName(Message(StatusRequest{})), "Status");
  EXPECT_EQ(MessageName(Message(ErrorMessage{})), "Error");
}

}  // namespace
}  // namespace siftd
