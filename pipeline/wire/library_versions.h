// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace siftd {

std::string SodiumVersion();
std::string ZlibVersion();

}  // namespace siftd
