// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/coin.h"

#include <sstream>

#include "tests/conformance/vectors.h"

namespace siftd {
namespace {

template <std::size_t n>
std::array<std::uint32_t, n> Words(const std::string& hex) {
  std::array<std::uint32_t, n> words{};
  std::istringstream in(hex);
  for (std::uint32_t& word : words) in >> std::hex >> word;
  EXPECT_TRUE(in) << hex;
  return words;
}

TEST(ConformanceCoin, PhiloxGivesTheKnownAnswers) {
  const JsonValue file = ReadVectors("coin.json");
  const auto& vectors = file.struct_value().fields().at("philox4x32_10").list_value().values();
  ASSERT_GT(vectors.size(), 0);
  for (const JsonValue& value : vectors) {
    const JsonObject& vector = value.struct_value();
    EXPECT_EQ(Philox4x32(Words<4>(Text(vector, "counter")), Words<2>(Text(vector, "key"))),
              Words<4>(Text(vector, "words")));
  }
}

TEST(ConformanceCoin, FallsAsTheVectorsSay) {
  const JsonValue file = ReadVectors("coin.json");
  const auto& vectors = file.struct_value().fields().at("coin").list_value().values();
  ASSERT_GT(vectors.size(), 0);
  for (const JsonValue& value : vectors) {
    const JsonObject& vector = value.struct_value();
    const auto number = [&vector](const char* name) {
      return static_cast<std::uint32_t>(vector.fields().at(name).number_value());
    };
    const double u = Coin(std::stoull(Text(vector, "seed")), number("epoch"),
                          std::stoull(Text(vector, "sample_id")), number("occurrence"));
    EXPECT_EQ(u, vector.fields().at("u").number_value()) << vector.ShortDebugString();
    EXPECT_EQ(u * 9007199254740992.0, std::stod(Text(vector, "u_times_2_53")));
  }
}

}  // namespace
}  // namespace siftd
