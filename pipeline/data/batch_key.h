// SPDX-License-Identifier: Apache-2.0
// Who a batch is, and which connection a message came over. Values; any thread.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>

namespace siftd {

// A key always names the same samples: the order is a function of (seed, pass).
struct BatchKey {
  std::uint32_t loader = 0;
  std::uint64_t pass = 0;
  std::uint64_t seq = 0;

  friend auto operator<=>(const BatchKey&, const BatchKey&) = default;
};

inline std::string ToString(const BatchKey& k) {
  return "(loader " + std::to_string(k.loader) + ", pass " + std::to_string(k.pass) + ", seq " +
         std::to_string(k.seq) + ")";
}

// Ordered by (incarnation, counter); {0, 0} is no session.
struct SessionId {
  std::uint64_t incarnation = 0;
  std::uint64_t counter = 0;

  friend auto operator<=>(const SessionId&, const SessionId&) = default;
  explicit operator bool() const { return incarnation != 0 || counter != 0; }
};

}  // namespace siftd

template <>
struct std::hash<siftd::BatchKey> {
  std::size_t operator()(const siftd::BatchKey& k) const noexcept {
    std::uint64_t h = k.seq * 0x9e3779b97f4a7c15ULL;
    h = (h ^ (h >> 29) ^ k.pass) * 0xbf58476d1ce4e5b9ULL;
    return static_cast<std::size_t>((h ^ (h >> 32)) + k.loader * 0x94d049bb133111ebULL);
  }
};
