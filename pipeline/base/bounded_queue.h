// SPDX-License-Identifier: Apache-2.0
// BoundedQueue: a closable queue between threads. All methods: any thread. It never drops an item:
// what was pushed is popped, also after Close.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "pipeline/base/clock.h"

namespace siftd {

enum class QueueResult {
  kOk,
  kFull,    // TryPush, or Push's deadline has passed; the item is untouched
  kEmpty,   // Pop's deadline has passed
  kClosed,  // Push: refused. Pop: closed and drained
};

template <typename T>
class BoundedQueue {
 public:
  // REQUIRES: capacity >= 1
  explicit BoundedQueue(std::size_t capacity) : capacity_(capacity) {}

  [[nodiscard]] QueueResult Push(T& item, MonoTime deadline) {
    std::unique_lock lock(mu_);
    if (!not_full_.wait_until(lock, deadline,
                              [&] { return closed_ || items_.size() < capacity_; })) {
      return QueueResult::kFull;
    }
    if (closed_) return QueueResult::kClosed;
    items_.push_back(std::move(item));
    lock.unlock();
    not_empty_.notify_one();
    return QueueResult::kOk;
  }

  [[nodiscard]] QueueResult TryPush(T& item) { return Push(item, MonoTime::min()); }

  [[nodiscard]] QueueResult Pop(T* out, MonoTime deadline) {
    std::unique_lock lock(mu_);
    if (!not_empty_.wait_until(lock, deadline, [&] { return closed_ || !items_.empty(); })) {
      return QueueResult::kEmpty;
    }
    if (items_.empty()) return QueueResult::kClosed;
    *out = std::move(items_.front());
    items_.pop_front();
    lock.unlock();
    not_full_.notify_one();
    return QueueResult::kOk;
  }

  [[nodiscard]] QueueResult TryPop(T* out) { return Pop(out, MonoTime::min()); }

  // Wakes everybody; pushes are refused from now on.
  void Close() {
    {
      const std::lock_guard lock(mu_);
      closed_ = true;
    }
    not_full_.notify_all();
    not_empty_.notify_all();
  }

  std::size_t size() const {
    const std::lock_guard lock(mu_);
    return items_.size();
  }
  std::size_t capacity() const { return capacity_; }

 private:
  const std::size_t capacity_;
  mutable std::mutex mu_;
  std::condition_variable not_full_;
  std::condition_variable not_empty_;
  std::deque<T> items_;  // guarded by mu_
  bool closed_ = false;  // guarded by mu_
};

}  // namespace siftd
