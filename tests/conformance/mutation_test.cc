// SPDX-License-Identifier: Apache-2.0
// Valid frames, damaged at random from a fixed seed: whatever comes, Decode answers with a message
// or a Status, and what it takes can be sent on. Run it under sanitizers too.
#include <algorithm>
#include <random>

#include "pipeline/wire/codec.h"
#include "tests/conformance/vectors.h"
#include "tests/sanitize/sanitized.h"

namespace siftd {
namespace {

constexpr auto kMutants = static_cast<int>(Seeds(3000));  // of each vector

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  Frames Damage(Frames frames) {
    for (std::size_t n = 1 + Below(4); n > 0 && !frames.empty(); --n) {
      const std::size_t i = Below(frames.size());
      switch (Below(10)) {
        case 0:
          frames.erase(frames.begin() + static_cast<std::ptrdiff_t>(i));
          break;
        case 1:
          frames.insert(frames.begin() + static_cast<std::ptrdiff_t>(i), frames[i]);
          break;
        case 2:
          std::swap(frames[i], frames[Below(frames.size())]);
          break;
        default:
          frames[i] = DamageBytes(frames[i]);
      }
    }
    return frames;
  }

 private:
  std::size_t Below(std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n - 1)(random_);
  }

  Frame DamageBytes(const Frame& frame) {
    std::vector<std::uint8_t> bytes(frame.bytes().begin(), frame.bytes().end());
    const std::size_t at = Below(bytes.size() + 1);
    const auto where = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    const auto byte = static_cast<std::uint8_t>(Below(256));
    switch (bytes.empty() || at == bytes.size() ? 0 : Below(4)) {
      case 0:
        bytes.insert(where, byte);
        break;
      case 1:
        bytes.erase(where);
        break;
      case 2:
        bytes.resize(at);
        break;
      default:
        *where = byte;
    }
    return Frame::Adopt(std::move(bytes));
  }

  std::mt19937_64 random_;
};

TEST(ConformanceMutation, DecodeNeverCrashesAndWhatItTakesCanBeSentOn) {
  QuietProtobuf();
  const JsonValue vectors = ReadVectors("valid.json");
  Mutator mutator(20261124);
  std::size_t taken = 0;
  std::size_t refused = 0;
  for (const JsonValue& value : vectors.list_value().values()) {
    const Frames frames = FramesOf(value.struct_value());
    for (int i = 0; i < kMutants; ++i) {
      const auto message = Decode(mutator.Damage(frames));
      if (!message.ok()) {
        EXPECT_FALSE(message.status().message().empty());
        ++refused;
        continue;
      }
      ++taken;
      const auto again = Decode(Encode(*message));
      ASSERT_TRUE(again.ok()) << Text(value.struct_value(), "name") << ": "
                              << again.status().ToString();
    }
  }
  EXPECT_GT(taken, 0u);
  EXPECT_GT(refused, 0u);
}

}  // namespace
}  // namespace siftd
