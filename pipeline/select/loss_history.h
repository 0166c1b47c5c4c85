// SPDX-License-Identifier: Apache-2.0
// LossHistory: the last `capacity` scores and where a score stands among them. Cost: SortedScores'.
// One thread. Holds finite scores only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pipeline/select/sorted_scores.h"

namespace siftd {

class LossHistory {
 public:
  // REQUIRES: capacity >= 1
  explicit LossHistory(std::size_t capacity);

  // The oldest score leaves when the history is full. REQUIRES: score is finite.
  void Add(float score);
  // Fraction of the scores held that are strictly below `score`, in [0, 1]; 0 when empty.
  double Percentile(float score);

  std::size_t size() const { return sorted_.size(); }
  std::size_t capacity() const { return capacity_; }

 private:
  const std::size_t capacity_;
  std::vector<float> ring_;  // in order of arrival
  std::size_t oldest_ = 0;   // in ring_, when full
  SortedScores sorted_;
};

}  // namespace siftd
