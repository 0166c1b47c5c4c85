// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/digest.h"

#include <sodium/crypto_hash_sha256.h>
#include <zlib.h>

#include <algorithm>

namespace siftd {

std::string Sha256(std::span<const std::uint8_t> bytes) {
  std::string digest(crypto_hash_sha256_BYTES, '\0');
  crypto_hash_sha256(reinterpret_cast<unsigned char*>(digest.data()), bytes.data(), bytes.size());
  return digest;
}

struct Sha256Stream::State {
  crypto_hash_sha256_state sodium;
};

Sha256Stream::Sha256Stream() : state_(std::make_unique<State>()) {
  crypto_hash_sha256_init(&state_->sodium);
}
Sha256Stream::~Sha256Stream() = default;
Sha256Stream::Sha256Stream(Sha256Stream&&) noexcept = default;
Sha256Stream& Sha256Stream::operator=(Sha256Stream&&) noexcept = default;

void Sha256Stream::Update(std::span<const std::uint8_t> bytes) {
  crypto_hash_sha256_update(&state_->sodium, bytes.data(), bytes.size());
}

std::string Sha256Stream::Final() {
  std::string digest(crypto_hash_sha256_BYTES, '\0');
  crypto_hash_sha256_final(&state_->sodium, reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

std::string Hex(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const char c : bytes) {
    text += kDigits[static_cast<unsigned char>(c) >> 4];
    text += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return text;
}

std::uint32_t Crc32(std::span<const std::uint8_t> bytes) {
  uLong crc = crc32(0L, Z_NULL, 0);
  constexpr std::size_t kStep = 1u << 30;  // zlib counts in 32 bits
  for (std::size_t at = 0; at < bytes.size(); at += kStep) {
    crc = crc32(crc, bytes.data() + at, static_cast<uInt>(std::min(kStep, bytes.size() - at)));
  }
  return static_cast<std::uint32_t>(crc);
}

}  // namespace siftd
