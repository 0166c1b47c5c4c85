// SPDX-License-Identifier: Apache-2.0
// Every finding of the past, and every seed, through its target, without libFuzzer: one test each,
// by the names of target and file. Run it under sanitizers too.
#include <gtest/gtest.h>

#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "pipeline/wire/codec.h"
#include "tests/fuzz/targets.h"

namespace siftd::fuzz {
namespace {

struct Case {
  Target target;
  std::filesystem::path file;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.file.string(); }

std::vector<Case> Cases(const char* folder) {
  std::vector<Case> cases;
  for (const Target& target : kTargets) {
    const std::filesystem::path files = std::filesystem::path(folder) / target.name;
    if (!std::filesystem::is_directory(files)) continue;
    for (const auto& file : std::filesystem::directory_iterator(files))
      cases.push_back({target, file.path()});
  }
  return cases;
}

std::string Name(const testing::TestParamInfo<Case>& info) {
  std::string name =
      std::string(info.param.target.name) + "_" + info.param.file.filename().string();
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

void RunFile(const Case& c) {
  QuietProtobuf();
  std::ifstream file(c.file, std::ios::binary);
  const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
  ASSERT_TRUE(file.good()) << c.file;
  c.target.run(bytes);
}

class FuzzFindings : public testing::TestWithParam<Case> {};
TEST_P(FuzzFindings, StayMended) { RunFile(GetParam()); }
INSTANTIATE_TEST_SUITE_P(Of, FuzzFindings, testing::ValuesIn(Cases(SIFTD_FUZZ_FINDINGS)), Name);

TEST(FuzzSeeds, EachTargetHasSomeAndRunsThem) {
  const std::vector<Case> cases = Cases(SIFTD_FUZZ_SEEDS);
  std::size_t with_seeds = 0;
  for (const Target& target : kTargets) {
    std::size_t seeds = 0;
    for (const Case& c : cases) {
      if (c.target.name != std::string_view(target.name)) continue;
      SCOPED_TRACE(c.file.string());
      RunFile(c);
      ++seeds;
    }
    EXPECT_GT(seeds, 0u) << target.name;
    with_seeds += seeds > 0 ? 1 : 0;
  }
  EXPECT_EQ(with_seeds, kTargets.size());
}

}  // namespace
}  // namespace siftd::fuzz
