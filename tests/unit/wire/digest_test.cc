// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/digest.h"

#include <gtest/gtest.h>
#include <sodium/crypto_hash_sha256.h>

#include <algorithm>
#include <random>
#include <string>

#include "pipeline/base/hex.h"

namespace siftd {
namespace {

std::span<const std::uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

// FIPS 180-4's example.
TEST(Digest, Sha256OfAbc) {
  EXPECT_EQ(Hex(Sha256(Bytes("abc"))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Digest, StreamEqualsTheWhole) {
  Sha256Stream stream;
  stream.Update(Bytes("a"));
  stream.Update(Bytes(""));
  stream.Update(Bytes("bc"));
  EXPECT_EQ(stream.Final(), Sha256(Bytes("abc")));
}

// FIPS 180-2's example of many blocks.
TEST(Digest, Sha256OfAMillionTimesA) {
  EXPECT_EQ(Hex(Sha256(Bytes(std::string(1'000'000, 'a')))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

// Of any length, in any pieces, as libsodium alone.
TEST(Digest, PiecesOfAnyLengthsEqualTheReference) {
  std::minstd_rand random(7);
  for (int round = 0; round < 300; ++round) {
    std::string text(random() % 700, '\0');
    for (char& c : text) c = static_cast<char>(random());
    std::string reference(crypto_hash_sha256_BYTES, '\0');
    crypto_hash_sha256(reinterpret_cast<unsigned char*>(reference.data()), Bytes(text).data(),
                       text.size());
    EXPECT_EQ(Hex(Sha256(Bytes(text))), Hex(reference)) << text.size();
    Sha256Stream stream;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = std::min<std::size_t>(text.size() - at, random() % 150);
      stream.Update(Bytes(text).subspan(at, size));
      at += size;
    }
    EXPECT_EQ(Hex(stream.Final()), Hex(reference)) << text.size();
  }
}

// The check value of CRC-32/ISO-HDLC.
TEST(Digest, Crc32OfTheCheckString) { EXPECT_EQ(Crc32(Bytes("123456789")), 0xCBF43926u); }

}  // namespace
}  // namespace siftd
