// SPDX-License-Identifier: Apache-2.0
// Counts calls of operator new in a program that links count_allocations.cc, which replaces it.
#pragma once

#include <cstdint>

namespace siftd {

// Since the program began, by all threads, those of inlined library code included; malloc by C
// libraries is not. Any thread.
std::uint64_t Allocations();

}  // namespace siftd
