// SPDX-License-Identifier: Apache-2.0
// What `siftd version` prints. Each library's version comes from the folder that is its home, or
// from the build.
#pragma once

#include <string>

namespace siftd {

std::string LibraryVersions();

}  // namespace siftd
