// SPDX-License-Identifier: Apache-2.0
// Bytes: how a fuzz target reads its input: numbers, pieces, frames. At its end everything is 0 or
// empty. make_corpus.py writes the same form. For tests only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>

#include "pipeline/base/frame.h"

namespace siftd::fuzz {

using Input = std::span<const std::uint8_t>;

// A promise that no input may break. Ends the process, which is how libFuzzer learns of it.
inline void Demand(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

class Bytes {
 public:
  explicit Bytes(Input input) : rest_(input) {}

  bool empty() const { return rest_.empty(); }
  Input Take(std::size_t size) {
    const Input taken = rest_.first(std::min(size, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  Input Rest() { return Take(rest_.size()); }

  template <typename T>  // little-endian
  T Number() {
    std::uint64_t value = 0;
    const Input taken = Take(sizeof(T));
    for (std::size_t i = 0; i < taken.size(); ++i) value |= std::uint64_t{taken[i]} << (8 * i);
    return static_cast<T>(value);
  }
  std::uint8_t Byte() { return Number<std::uint8_t>(); }
  std::string_view Text(std::size_t size) {
    const Input taken = Take(size);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

  // One frame: its bytes in memory of their own, so that a sanitizer sees a read beyond its end.
  Frame OneFrame(std::size_t size) {
    const Input taken = Take(size);
    return Frame::Copy(taken.data(), taken.size());
  }
  // u8 number of frames, then for each u16 size and its bytes.
  Frames SomeFrames() {
    Frames frames;
    const std::size_t count = Byte();
    for (std::size_t i = 0; i < count && !(empty() && i > 40); ++i)
      frames.push_back(OneFrame(Number<std::uint16_t>()));
    return frames;
  }

 private:
  Input rest_;
};

}  // namespace siftd::fuzz
