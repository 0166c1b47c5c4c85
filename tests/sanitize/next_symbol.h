// SPDX-License-Identifier: Apache-2.0
// The library's own function of a name that the program defines too. For tests only.
#pragma once

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

namespace siftd {

template <typename Function>
Function* NextSymbol(const char* mangled) {
  auto* found = reinterpret_cast<Function*>(dlsym(RTLD_NEXT, mangled));
  if (found != nullptr) return found;
  std::fprintf(stderr, "no %s in the libraries of this program\n", mangled);
  std::abort();
}

}  // namespace siftd
