// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/loss_history.h"

namespace siftd {

LossHistory::LossHistory(std::size_t capacity) : capacity_(capacity) {}

void LossHistory::Add(float score) {
  if (ring_.size() < capacity_) {
    ring_.push_back(score);
  } else {
    sorted_.Erase(ring_[oldest_]);
    ring_[oldest_] = score;
    if (++oldest_ == capacity_) oldest_ = 0;
  }
  sorted_.Insert(score);
}

double LossHistory::Percentile(float score) {
  if (sorted_.size() == 0) return 0.0;
  return static_cast<double>(sorted_.Below(score)) / static_cast<double>(sorted_.size());
}

}  // namespace siftd
