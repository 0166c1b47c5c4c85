// SPDX-License-Identifier: Apache-2.0
// Time for deadlines and measurements: monotonic, handed in by the caller so that state machines
// can be tested.
#pragma once

#include <chrono>
#include <cstdint>

namespace siftd {

using MonoClock = std::chrono::steady_clock;
using MonoTime = MonoClock::time_point;
using Duration = MonoClock::duration;
using std::chrono::milliseconds;

inline MonoTime Now() { return MonoClock::now(); }
inline double Seconds(Duration d) { return std::chrono::duration<double>(d).count(); }

// Nanoseconds since 1970: incarnations and run ids, ordered over restarts of a process.
inline std::uint64_t WallNanos() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

}  // namespace siftd
