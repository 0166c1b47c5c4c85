// SPDX-License-Identifier: Apache-2.0
// How much goes through a link that is measured, and the receiver's clock.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ctime>

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

struct LinkRate {
  double gigabytes_per_second = 0;      // 10^9 bytes of payload
  double cpu_seconds_per_gigabyte = 0;  // of all threads of this process
};

// Receiver's thread.
class LinkClock {
 public:
  explicit LinkClock(const LinkLoad& load) : load_(load) {}

  // After each message; false: that was the last one.
  bool Received() {
    if (++count_ == load_.warm()) began_ = {Now(), CpuSeconds()};
    if (count_ == load_.messages) ended_ = {Now(), CpuSeconds()};
    return count_ < load_.messages;
  }
  LinkRate rate() const {
    const double gigabytes =
        static_cast<double>(load_.bytes * (load_.messages - load_.warm())) / 1e9;
    return {gigabytes / Seconds(ended_.wall - began_.wall), (ended_.cpu - began_.cpu) / gigabytes};
  }

 private:
  struct At {
    MonoTime wall{};
    double cpu = 0;
  };

  static double CpuSeconds() {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
  }

  const LinkLoad load_;
  std::size_t count_ = 0;
  At began_;
  At ended_;
};

}  // namespace siftd::bench
