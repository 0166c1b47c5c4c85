// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/library_versions.h"

#include <sodium/version.h>
#include <zlib.h>

namespace siftd {

std::string SodiumVersion() { return sodium_version_string(); }
std::string ZlibVersion() { return zlibVersion(); }

}  // namespace siftd
