// SPDX-License-Identifier: Apache-2.0
// RateLimit: how often each of many named peers may do something: so many times a second on
// average, ten seconds' worth at once. One thread. Its memory is bounded: names that used nothing
// of late are forgotten.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>

#include "pipeline/base/clock.h"

namespace siftd {

class RateLimit {
 public:
  explicit RateLimit(double per_second) : rate_(per_second), burst_(10 * per_second) {}

  // True: `who` may; it counts.
  [[nodiscard]] bool Take(const std::string& who, MonoTime now) {
    if (buckets_.size() >= kNames)
      std::erase_if(buckets_, [&](const auto& b) { return Full(b, now); });
    if (buckets_.size() >= kNames && !buckets_.contains(who)) return false;
    const auto [it, fresh] = buckets_.try_emplace(who, Bucket{burst_, now});
    Bucket& bucket = it->second;
    bucket.tokens = Filled(bucket, now);
    bucket.at = now;
    if (bucket.tokens < 1) return false;
    bucket.tokens -= 1;
    return true;
  }

 private:
  static constexpr std::size_t kNames = 4096;

  struct Bucket {
    double tokens;
    MonoTime at;
  };

  double Filled(const Bucket& b, MonoTime now) const {
    return std::min(burst_, b.tokens + rate_ * Seconds(now - b.at));
  }
  bool Full(const std::pair<const std::string, Bucket>& b, MonoTime now) const {
    return Filled(b.second, now) >= burst_;
  }

  const double rate_;
  const double burst_;
  std::unordered_map<std::string, Bucket> buckets_;
};

}  // namespace siftd
