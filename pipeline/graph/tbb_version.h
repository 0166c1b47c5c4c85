// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace siftd {

// Of the oneTBB runtime that is loaded.
std::string TbbVersion();

}  // namespace siftd
