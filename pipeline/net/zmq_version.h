// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace siftd {

// Of the libzmq that is loaded.
std::string ZmqVersion();

}  // namespace siftd
