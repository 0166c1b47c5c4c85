// SPDX-License-Identifier: Apache-2.0
// Wakeup: how other threads wake an I/O thread out of its poll (eventfd). Wake: any thread. Clear,
// fd: the I/O thread.
#pragma once

#include <atomic>

namespace siftd {

class Wakeup {
 public:
  Wakeup();
  ~Wakeup();
  Wakeup(const Wakeup&) = delete;
  Wakeup& operator=(const Wakeup&) = delete;

  // Costs a system call only if the last one was taken.
  void Wake();
  // Call before looking at what the wakers left, so that none is missed.
  void Clear();
  int fd() const { return fd_; }

 private:
  int fd_;
  std::atomic<bool> pending_{false};
};

}  // namespace siftd
