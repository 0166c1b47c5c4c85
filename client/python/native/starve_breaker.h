// SPDX-License-Identifier: Apache-2.0
// StarveBreaker: the circuit breaker of a drop-in. It opens when the training loop has had nothing
// to take for `timeout` while workers owe verdicts, and closes after three verdicts in a row that
// came within `timeout`. Value; one thread. Pure.
#pragma once

#include <optional>

#include "pipeline/base/clock.h"

namespace siftd {

class StarveBreaker {
 public:
  static constexpr int kClosesAfter = 3;

  explicit StarveBreaker(Duration timeout) : timeout_(timeout) {}

  // `starving`: verdicts are owed and no batch is ready. True: it opened just now.
  bool Look(bool starving, MonoTime now) {
    if (!starving) {
      since_.reset();
      return false;
    }
    if (!since_) since_ = now;
    if (open_ || now - *since_ < timeout_) return false;
    open_ = true;
    quick_ = 0;
    return true;
  }

  // The age of a verdict that came for a lease given up. True: it closed just now.
  bool Late(Duration age) {
    quick_ = age <= timeout_ ? quick_ + 1 : 0;
    if (!open_ || quick_ < kClosesAfter) return false;
    open_ = false;
    since_.reset();
    return true;
  }

  bool open() const { return open_; }

 private:
  Duration timeout_;
  std::optional<MonoTime> since_;
  bool open_ = false;
  int quick_ = 0;
};

}  // namespace siftd
