// SPDX-License-Identifier: Apache-2.0
// SHA-256 of a model and CRC-32 of its chunks. Pure; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace siftd {

// 32 raw bytes.
std::string Sha256(std::span<const std::uint8_t> bytes);
// Lower-case hexadecimal of any bytes.
std::string Hex(std::string_view bytes);
// zlib's CRC-32.
std::uint32_t Crc32(std::span<const std::uint8_t> bytes);

}  // namespace siftd
