// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/state_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

namespace siftd {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Frame Floats(const std::vector<float>& values) {
  return Frame::Copy(values.data(), values.size() * sizeof(float));
}

TrainerState HalfTrained() {
  TrainerState state;
  state.decided.intervals = {{0, 2, 0, 7}, {1, 3, 4, std::numeric_limits<std::uint64_t>::max()}};
  state.decided.next_pass = {2, 3};
  state.steps = (std::uint64_t{1} << 60) + 1;  // no double holds it
  state.rank = 1;
  state.world = 2;
  state.loader_count = 4;
  state.batch_size = 64;
  Selected half;
  half.run = 5;
  half.key = {1, 3, 9};
  half.epoch = 3;
  half.decision = UnsiftedDecision(2);
  half.decision.score = {0.5f, std::numeric_limits<float>::quiet_NaN()};
  half.sample_id = {1, std::numeric_limits<std::uint64_t>::max()};
  half.tensors = {{"x", DType::kFloat32, {2, 3}, Floats({1, 2, 3, 4, 5, 6})},
                  {"y", DType::kUInt8, {2}, Frame::Copy("ab", 2)}};
  state.half = half;
  for (const std::uint64_t seq : {1, 2}) {
    Selected carried = half;
    carried.key = {0, 1, seq};
    carried.tensors[1].bytes = Frame::Copy(seq == 1 ? "cd" : "ef", 2);
    state.carried.push_back(carried);
  }
  return state;
}

Result<TrainerState> RoundTrip(const TrainerState& state) {
  auto file = DecodeTensorFile(Frame::Adopt(EncodeTensorFile(ToTensorFile(state))));
  if (!file.ok()) return file.status();
  return ToTrainerState(*file);
}

TEST(StateCodec, AStateComesBackWhole) {
  const TrainerState saved = HalfTrained();
  const auto state = RoundTrip(saved);
  ASSERT_TRUE(state.ok()) << state.status().message();
  EXPECT_EQ(state->decided.intervals, saved.decided.intervals);
  EXPECT_EQ(state->decided.next_pass, saved.decided.next_pass);
  EXPECT_EQ(state->steps, saved.steps);
  EXPECT_EQ(state->rank, 1u);
  EXPECT_EQ(state->world, 2u);
  EXPECT_EQ(state->loader_count, 4u);
  EXPECT_EQ(state->batch_size, 64u);
  ASSERT_TRUE(state->half);
  EXPECT_EQ(state->half->key, saved.half->key);
  EXPECT_EQ(state->half->sample_id, saved.half->sample_id);
  EXPECT_FLOAT_EQ(state->half->decision.score.at(0), 0.5f);
  EXPECT_TRUE(std::isnan(state->half->decision.score.at(1)));
  ASSERT_EQ(state->half->tensors.size(), 2u);
  EXPECT_EQ(state->half->tensors[0].name, "x");
  EXPECT_EQ(state->half->tensors[0].bytes.view(), saved.half->tensors[0].bytes.view());
  EXPECT_EQ(state->half->tensors[1].bytes.view(), "ab");
  ASSERT_EQ(state->carried.size(), 2u);
  EXPECT_EQ(state->carried[1].key, saved.carried[1].key);
  EXPECT_EQ(state->carried[0].tensors[1].bytes.view(), "cd");
  EXPECT_EQ(state->carried[1].tensors[1].bytes.view(), "ef");
}

TEST(StateCodec, AStateWithoutHalfTrainedRowsHasNoTensors) {
  TrainerState saved;
  saved.steps = 3;
  const auto state = RoundTrip(saved);
  ASSERT_TRUE(state.ok()) << state.status().message();
  EXPECT_EQ(state->steps, 3u);
  EXPECT_FALSE(state->half);
}

TEST(StateCodec, WhatIsNoStateIsRefusedByField) {
  TensorFile file = ToTensorFile(HalfTrained());
  std::string& json = file.text[kStateText];
  const auto refusal = [](const TensorFile& f) { return ToTrainerState(f).status().message(); };

  TensorFile other = file;
  other.text.clear();
  EXPECT_THAT(refusal(other), HasSubstr("siftd_state"));
  other = file;
  other.text[kStateText] = "{";
  EXPECT_THAT(refusal(other), HasSubstr("not readable"));
  other = file;
  other.tensors.pop_back();
  EXPECT_THAT(refusal(other), HasSubstr("'y' is not in the file"));
  other = file;
  other.tensors[0].bytes = Frame::Copy("short", 5);
  EXPECT_THAT(refusal(other), HasSubstr("bytes long"));
  const std::size_t at = json.find("\"schema\": 1");
  ASSERT_NE(at, std::string::npos);
  json.replace(at, 11, "\"schema\": 9");
  EXPECT_THAT(refusal(file), HasSubstr("schema is 9; allowed: 1"));
}

std::string FileOf(const std::string& header, const std::string& data = "") {
  std::string bytes(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

struct Malformed {
  const char* name;
  std::string bytes;
  const char* text;
};

class TensorFileTest : public testing::TestWithParam<Malformed> {};

TEST_P(TensorFileTest, IsRefusedByField) {
  const auto file = DecodeTensorFile(Frame::Adopt(std::string(GetParam().bytes)));
  ASSERT_FALSE(file.ok());
  EXPECT_THAT(file.status().message(), HasSubstr(GetParam().text));
}

INSTANTIATE_TEST_SUITE_P(
    Malformed, TensorFileTest,
    testing::Values(
        Malformed{"Empty", "", "file is 0 bytes"},
        Malformed{"LongHeader", std::string(7, '\xFF') + '\x7F', "header's length"},
        Malformed{"NoJson", FileOf("hello"), "no JSON object"},
        Malformed{"List", FileOf(R"({"x": [1]})"), "no object"},
        Malformed{"NoType", FileOf(R"({"x": {"shape": [1], "data_offsets": [0, 0]}})"), "dtype"},
        Malformed{"NegativeSize",
                  FileOf(R"({"x": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 0]}})"),
                  "whole numbers"},
        Malformed{"HugeSizes", FileOf(R"({"x": {"dtype": "F64", "shape": [4294967296, 4294967296],
                             "data_offsets": [0, 0]}})"),
                  "overflows"},
        Malformed{"OutsideOfTheFile",
                  FileOf(R"({"x": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}})", "a"),
                  "data_offsets"},
        Malformed{"TooFewBytes",
                  FileOf(R"({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1]}})", "a"),
                  "needs 8 bytes"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace siftd
