// SPDX-License-Identifier: Apache-2.0
// Shows ThreadSanitizer what Debian's libzmq, which is not instrumented, hides from it: a message's
// bytes go from the thread that sends them to libzmq's own, which lets go of them. Linked into test
// programs, this takes the place of libzmq's function for their calls.
#include <sanitizer/tsan_interface.h>
#include <zmq.h>

#include "tests/sanitize/next_symbol.h"

namespace {

struct Free {
  zmq_free_fn* function;
  void* hint;
};

void SeenFree(void* data, void* hint) {
  __tsan_acquire(hint);
  auto* free = static_cast<Free*>(hint);
  if (free->function != nullptr) free->function(data, free->hint);
  delete free;
}

}  // namespace

extern "C" int zmq_msg_init_data(zmq_msg_t* message, void* data, size_t size, zmq_free_fn* function,
                                 void* hint) {
  static auto* const real = siftd::NextSymbol<decltype(zmq_msg_init_data)>("zmq_msg_init_data");
  auto* free = new Free{function, hint};
  __tsan_release(free);
  const int rc = real(message, data, size, SeenFree, free);
  if (rc != 0) delete free;
  return rc;
}
