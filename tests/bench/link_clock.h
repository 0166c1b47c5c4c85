// SPDX-License-Identifier: Apache-2.0
// How much goes through a link that is measured, and the receiver's clock.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "pipeline/base/clock.h"

namespace siftd::bench {

struct LinkLoad {
  std::size_t bytes = 1 << 20;  // of a frame
  std::size_t messages = 1000;  // of which the first tenth is not timed

  std::size_t warm() const { return messages / 10 + 1; }
  // Messages under way at most, where a socket's own queue decides.
  int queue() const {
    return static_cast<int>(std::clamp<std::size_t>((64u << 20) / bytes, 8, 1000));
  }
};

// Receiver's thread.
class LinkClock {
 public:
  explicit LinkClock(const LinkLoad& load) : load_(load) {}

  // After each message; false: that was the last one.
  bool Received() {
    if (++count_ == load_.warm()) began_ = Now();
    if (count_ == load_.messages) ended_ = Now();
    return count_ < load_.messages;
  }
  double gigabytes_per_second() const {
    return static_cast<double>(load_.bytes * (load_.messages - load_.warm())) /
           Seconds(ended_ - began_) / 1e9;
  }

 private:
  const LinkLoad load_;
  std::size_t count_ = 0;
  MonoTime began_{};
  MonoTime ended_{};
};

}  // namespace siftd::bench
