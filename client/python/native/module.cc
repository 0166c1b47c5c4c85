// SPDX-License-Identifier: Apache-2.0
// siftd._native: the compiled part of the Python client. Optional: without it the client runs the
// same protocol in Python (siftd/_delivery, siftd/_net), which costs the training loop more.
#include "client/python/native/convert.h"

PYBIND11_MODULE(_native, m) {
  m.doc() = "The compiled part of siftd's Python client.";
  siftd::BindDecision(m);
  siftd::BindBatch(m);
  siftd::BindLoaderLink(m);
  siftd::BindBatchLink(m);
  siftd::BindStreamLink(m);
}
