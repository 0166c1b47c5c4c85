// SPDX-License-Identifier: Apache-2.0
// LossHistory: the last `capacity` scores and where a score stands among them. Add and Percentile
// take O(log n). One thread. Holds finite scores only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ext/pb_ds/assoc_container.hpp>
#include <span>
#include <utility>
#include <vector>

namespace siftd {

class LossHistory {
 public:
  // REQUIRES: capacity >= 1
  explicit LossHistory(std::size_t capacity);

  // The oldest score leaves when the history is full. REQUIRES: score is finite.
  void Add(float score);
  // Fraction of the scores held that are strictly below `score`, in [0, 1]; 0 when empty.
  double Percentile(float score) const;

  std::size_t size() const { return tree_.size(); }
  std::size_t capacity() const { return capacity_; }

 private:
  // The number makes equal scores distinct.
  using Entry = std::pair<float, std::uint64_t>;
  using Tree =
      __gnu_pbds::tree<Entry, __gnu_pbds::null_type, std::less<Entry>, __gnu_pbds::rb_tree_tag,
                       __gnu_pbds::tree_order_statistics_node_update>;

  const std::size_t capacity_;
  std::vector<float>
      ring_;  // in order of arrival; ring_[added_ % capacity_] is the oldest when full
  std::uint64_t added_ = 0;
  Tree tree_;
};

}  // namespace siftd
