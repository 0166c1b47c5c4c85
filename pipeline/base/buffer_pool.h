// SPDX-License-Identifier: Apache-2.0
// BufferPool: uninitialised memory for batches that are made over and over. What is let go of is
// kept for the next of that size: fresh pages for each batch cost as much as filling them. Buffers
// may outlive their pool. Take: any thread; a buffer may be let go of on any other. Never waits but
// for a short lock, never holds more than `spare` unused buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace siftd {

class BufferPool {
 public:
  explicit BufferPool(std::size_t spare = 8) : spares_(std::make_shared<Spares>(spare)) {}

  // `size` bytes, aligned as LibTorch's tensors are.
  std::shared_ptr<std::uint8_t> Take(std::size_t size) {
    std::uint8_t* memory = spares_->Pop(size);
    if (memory == nullptr) memory = static_cast<std::uint8_t*>(::operator new(size, kAlign));
    return {memory, [spares = spares_, size](std::uint8_t* p) { spares->Push(p, size); }};
  }

  std::size_t unused() const { return spares_->count(); }

 private:
  static constexpr std::align_val_t kAlign{64};

  class Spares {
   public:
    explicit Spares(std::size_t most) : most_(most) { unused_.reserve(most); }
    ~Spares() {
      for (const auto& [memory, size] : unused_) ::operator delete(memory, kAlign);
    }

    std::size_t count() const {
      const std::lock_guard lock(mutex_);
      return unused_.size();
    }

    std::uint8_t* Pop(std::size_t size) {
      const std::lock_guard lock(mutex_);
      for (auto it = unused_.rbegin(); it != unused_.rend(); ++it) {
        if (it->second != size) continue;
        std::uint8_t* const memory = it->first;
        unused_.erase(std::next(it).base());
        return memory;
      }
      return nullptr;
    }

    // Beyond `most` the oldest goes: a size that is no longer asked for does not stay.
    void Push(std::uint8_t* memory, std::size_t size) {
      std::uint8_t* surplus = memory;
      if (most_ > 0) {
        const std::lock_guard lock(mutex_);
        surplus = nullptr;
        if (unused_.size() == most_) {
          surplus = unused_.front().first;
          unused_.erase(unused_.begin());
        }
        unused_.emplace_back(memory, size);
      }
      if (surplus != nullptr) ::operator delete(surplus, kAlign);
    }

   private:
    const std::size_t most_;
    mutable std::mutex mutex_;
    std::vector<std::pair<std::uint8_t*, std::size_t>> unused_;  // oldest first
  };

  std::shared_ptr<Spares> spares_;
};

}  // namespace siftd
