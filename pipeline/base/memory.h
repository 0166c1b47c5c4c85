// SPDX-License-Identifier: Apache-2.0
// How the process' allocator treats large blocks. Any thread.
#pragma once

namespace siftd {

// From now on freed blocks below 32 MiB stay with the process for the next of their kind, up to 64
// MiB for each of glibc's arenas, instead of going back to the system with every message: the pages
// of a message cost more than what is done with it. The limits that glibc moves by itself move as
// after any freed block of that size; what the user has set by mallopt or environment stays.
void KeepFreedMemory();

}  // namespace siftd
