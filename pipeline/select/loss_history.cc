// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/loss_history.h"

namespace siftd {

LossHistory::LossHistory(std::size_t capacity) : capacity_(capacity) {}

void LossHistory::Add(float score) {
  const std::size_t slot = static_cast<std::size_t>(added_ % capacity_);
  if (ring_.size() < capacity_) {
    ring_.push_back(score);
  } else {
    tree_.erase({ring_[slot], added_ - capacity_});
    ring_[slot] = score;
  }
  tree_.insert({score, added_++});
}

double LossHistory::Percentile(float score) const {
  if (tree_.empty()) return 0.0;
  return static_cast<double>(tree_.order_of_key({score, 0})) / static_cast<double>(tree_.size());
}

}  // namespace siftd
