// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/digest.h"

#include <gtest/gtest.h>

#include <string>

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

// The check value of CRC-32/ISO-HDLC.
TEST(Digest, Crc32OfTheCheckString) { EXPECT_EQ(Crc32(Bytes("123456789")), 0xCBF43926u); }

TEST(Digest, HexIsLowerCase) { EXPECT_EQ(Hex(std::string("\x00\xAF\xff", 3)), "00afff"); }

}  // namespace
}  // namespace siftd
