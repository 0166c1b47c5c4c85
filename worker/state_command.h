// SPDX-License-Identifier: Apache-2.0
// `siftd state show`: what stands in a trainer's state. The main thread.
#pragma once

#include <string>

namespace siftd {

// Prints the state in `path`, tensors as types and shapes; the exit code. A file of torch.save is
// handed to siftd's Python package (this process becomes `python3 -m siftd`): it is never unpickled
// here.
int ShowState(const std::string& path);

}  // namespace siftd
