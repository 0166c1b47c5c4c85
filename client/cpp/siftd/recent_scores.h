// SPDX-License-Identifier: Apache-2.0
// RecentScores: the last finite scores seen, which a worker that joins begins its history with.
// Value; one thread at a time. Add: O(1) a score.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace siftd {

class RecentScores {
 public:
  // capacity 0: keeps none.
  explicit RecentScores(std::size_t capacity) : capacity_(capacity) {}

  void Add(const std::vector<float>& scores) {
    if (capacity_ == 0) return;
    for (const float score : scores) {
      if (!std::isfinite(score)) continue;
      if (ring_.size() < capacity_) {
        ring_.push_back(score);
      } else {
        ring_[next_] = score;
        next_ = (next_ + 1) % capacity_;
      }
    }
  }

  // Oldest first.
  std::vector<float> Sample() const {
    std::vector<float> sample(ring_.begin() + static_cast<std::ptrdiff_t>(next_), ring_.end());
    sample.insert(sample.end(), ring_.begin(), ring_.begin() + static_cast<std::ptrdiff_t>(next_));
    return sample;
  }

 private:
  std::size_t capacity_;
  std::vector<float> ring_;
  std::size_t next_ = 0;  // the oldest, once the ring is full
};

}  // namespace siftd
