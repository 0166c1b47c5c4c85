// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/coin.h"

namespace siftd {
namespace {

constexpr std::uint32_t kMultiplier0 = 0xD2511F53;
constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9;
constexpr std::uint32_t kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

}  // namespace

PhiloxCounter Philox4x32(PhiloxCounter c, PhiloxKey k) {
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t p0 = std::uint64_t{kMultiplier0} * c[0];
    const std::uint64_t p1 = std::uint64_t{kMultiplier1} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k[0] += kWeyl0;
    k[1] += kWeyl1;
  }
  return c;
}

double Coin(std::uint64_t seed, std::uint32_t epoch, std::uint64_t sample_id,
            std::uint32_t occurrence) {
  const PhiloxCounter x =
      Philox4x32({static_cast<std::uint32_t>(sample_id),
                  static_cast<std::uint32_t>(sample_id >> 32), epoch, occurrence},
                 {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  return ((x[0] >> 5) * 67108864.0 + (x[1] >> 6)) * (1.0 / 9007199254740992.0);
}

}  // namespace siftd
