// SPDX-License-Identifier: Apache-2.0
// FaultPoint: a named place where a process of a test build can die or stop, exactly. With the
// CMake option SIFTD_FAULT_POINTS, SIFTD_FAULT=emit:3:kill in the environment sends SIGKILL to the
// process on its third passage of FaultPoint("emit"); `stop` sends SIGSTOP. Not set, a passage
// costs one load; without the option there is nothing of it. Any thread.
#pragma once

namespace siftd {

#ifdef SIFTD_FAULT_POINTS
namespace fault {
extern const bool kArmed;
void Pass(const char* point);
}  // namespace fault

inline void FaultPoint(const char* point) {
  if (fault::kArmed) fault::Pass(point);
}
#else
inline void FaultPoint(const char* /*point*/) {}
#endif

}  // namespace siftd
