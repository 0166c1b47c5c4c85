// SPDX-License-Identifier: Apache-2.0
// Frame: an immutable run of bytes that shares the ownership of whatever holds them (a ZeroMQ
// message, a vector, a tensor). Copying a Frame copies no byte. Any thread; the owner's deleter
// runs on the thread that drops the last copy.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace siftd {

class Frame {
 public:
  Frame() = default;
  // `owner` keeps [data, data + size) alive and unchanged.
  Frame(std::shared_ptr<const void> owner, const void* data, std::size_t size)
      : owner_(std::move(owner)), data_(static_cast<const std::uint8_t*>(data)), size_(size) {}

  static Frame Adopt(std::vector<std::uint8_t> bytes) {
    auto owner = std::make_shared<const std::vector<std::uint8_t>>(std::move(bytes));
    return {owner, owner->data(), owner->size()};
  }
  static Frame Adopt(std::string bytes) {
    auto owner = std::make_shared<const std::string>(std::move(bytes));
    return {owner, owner->data(), owner->size()};
  }
  static Frame Copy(const void* data, std::size_t size) {
    const auto* p = static_cast<const std::uint8_t*>(data);
    return Adopt(std::vector<std::uint8_t>(p, p + size));
  }

  const std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::span<const std::uint8_t> bytes() const { return {data_, size_}; }
  std::string_view view() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::shared_ptr<const void>& owner() const { return owner_; }

 private:
  std::shared_ptr<const void> owner_;
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

using Frames = std::vector<Frame>;

}  // namespace siftd
