// SPDX-License-Identifier: Apache-2.0
// StageClock: how many batches a stage handled, how long it worked on them and how long they waited
// before it. Cheap enough for every batch. All methods: any thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "pipeline/base/clock.h"
#include "pipeline/data/messages.h"

namespace siftd {

class StageClock {
 public:
  explicit StageClock(std::string name) : name_(std::move(name)) {}

  void Enter() { queued_.fetch_add(1, std::memory_order_relaxed); }
  void Leave(Duration wait, Duration busy) {
    queued_.fetch_sub(1, std::memory_order_relaxed);
    batches_.fetch_add(1, std::memory_order_relaxed);
    wait_ns_.fetch_add(std::chrono::nanoseconds(wait).count(), std::memory_order_relaxed);
    busy_ns_.fetch_add(std::chrono::nanoseconds(busy).count(), std::memory_order_relaxed);
  }
  StageStatus Read() const {
    return {name_, batches_.load(), static_cast<double>(busy_ns_.load()) * 1e-9,
            static_cast<double>(wait_ns_.load()) * 1e-9,
            static_cast<std::uint64_t>(std::max<std::int64_t>(0, queued_.load()))};
  }

 private:
  const std::string name_;
  std::atomic<std::uint64_t> batches_{0};
  std::atomic<std::int64_t> queued_{0};
  std::atomic<std::int64_t> wait_ns_{0};
  std::atomic<std::int64_t> busy_ns_{0};
};

}  // namespace siftd
