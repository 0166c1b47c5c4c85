// SPDX-License-Identifier: Apache-2.0
// Bytes as text.
#pragma once

#include <string>
#include <string_view>

namespace siftd {

// Lower-case hexadecimal of any bytes.
std::string Hex(std::string_view bytes);

}  // namespace siftd
