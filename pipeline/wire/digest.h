// SPDX-License-Identifier: Apache-2.0
// SHA-256 of a model and CRC-32 of its chunks. Functions: any thread; a Sha256Stream: one at a
// time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace siftd {

// 32 raw bytes.
std::string Sha256(std::span<const std::uint8_t> bytes);

// The same over bytes that come in pieces.
class Sha256Stream {
 public:
  Sha256Stream();
  ~Sha256Stream();
  Sha256Stream(Sha256Stream&&) noexcept;
  Sha256Stream& operator=(Sha256Stream&&) noexcept;

  void Update(std::span<const std::uint8_t> bytes);
  // 32 raw bytes; the stream is spent.
  std::string Final();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// zlib's CRC-32.
std::uint32_t Crc32(std::span<const std::uint8_t> bytes);

}  // namespace siftd
