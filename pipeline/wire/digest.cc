// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/digest.h"

#include <sodium/crypto_hash_sha256.h>
#include <zlib.h>

#include <algorithm>

#include "pipeline/wire/sha256_blocks.h"

namespace siftd {

namespace {

constexpr std::size_t kBlock = 64;

// Whole blocks by the processor's instructions, straight into libsodium's state: its eight words
// and its count of bits. libsodium does the rest.
void UpdateState(crypto_hash_sha256_state* state, std::span<const std::uint8_t> bytes) {
  if (wire::HasSha256Blocks()) {
    const std::size_t held = (state->count / 8) % kBlock;
    const std::size_t head = std::min(bytes.size(), held == 0 ? 0 : kBlock - held);
    crypto_hash_sha256_update(state, bytes.data(), head);
    bytes = bytes.subspan(head);
    const std::size_t blocks = bytes.size() / kBlock;
    wire::Sha256Blocks(state->state, bytes.data(), blocks);
    state->count += std::uint64_t{blocks} * kBlock * 8;
    bytes = bytes.subspan(blocks * kBlock);
  }
  crypto_hash_sha256_update(state, bytes.data(), bytes.size());
}

}  // namespace

std::string Sha256(std::span<const std::uint8_t> bytes) {
  Sha256Stream stream;
  stream.Update(bytes);
  return stream.Final();
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
  UpdateState(&state_->sodium, bytes);
}

std::string Sha256Stream::Final() {
  std::string digest(crypto_hash_sha256_BYTES, '\0');
  crypto_hash_sha256_final(&state_->sodium, reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
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
