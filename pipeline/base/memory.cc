// SPDX-License-Identifier: Apache-2.0
#include "pipeline/base/memory.h"

#include <cstddef>
#include <cstdlib>

namespace siftd {

void KeepFreedMemory() {
  constexpr std::size_t kLarge = (std::size_t{32} << 20) - (std::size_t{64} << 10);
  void* volatile block = std::malloc(kLarge);  // volatile: the compiler may drop an unused pair
  std::free(block);
}

}  // namespace siftd
