// SPDX-License-Identifier: Apache-2.0
// LentBuffers: Python buffers lent to messages without a copy. The last user of a message may be
// any thread (ZeroMQ's own, mostly), and none of them may wait for the interpreter lock to let go
// of the Python object: it is put here, and let go of by the next call that holds that lock. Lend,
// LetGo: with the interpreter lock. The frames: any thread.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "pipeline/base/frame.h"

namespace siftd {

class LentBuffers {
 public:
  LentBuffers();
  // Lets go, too. What is still lent then is never let go of: whoever holds frames ends first.
  ~LentBuffers();

  // The buffer's bytes, as they lie in memory. Throws as Python does for what is no contiguous
  // buffer.
  Frame Lend(pybind11::handle buffer);
  // Lets go of what nobody uses any more.
  void LetGo();

 private:
  struct Returned;
  struct Loan;
  std::shared_ptr<Returned> returned_;
};

}  // namespace siftd
