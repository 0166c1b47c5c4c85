// SPDX-License-Identifier: Apache-2.0
// ScoreCache: the last score of each sample, kept by its loader, so that a sample is scored on
// every n-th visit only and decided by its last score in between. Visits to score are spread by a
// hash of the id, so that each pass but the first scores about 1/n of the rows. Value-like; one
// thread only.
//
// Memory: 13 bytes per slot, 1.5 to 3 slots per sample, so at most 39 bytes per sample (59 while it
// grows). Samples beyond `most` are scored on each visit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace siftd {

class ScoreCache {
 public:
  static constexpr std::uint32_t kMostEvery = 254;
  static constexpr std::size_t kMostSamples = 1u << 26;

  // REQUIRES: 1 <= every <= kMostEvery. 1: nothing is kept.
  explicit ScoreCache(std::uint32_t every, std::size_t most = kMostSamples)
      : every_(every), most_(most) {}

  // Counts a visit of each; the scores that decide it, NaN = score it. Empty where nothing is kept.
  std::vector<float> Visit(const std::vector<std::uint64_t>& ids);
  // What came of a visit: `score` [n] of all rows, or empty; only rows without a prior are news.
  void Take(const std::vector<std::uint64_t>& ids, const std::vector<float>& prior,
            const std::vector<float>& score);

  std::size_t size() const { return size_; }

 private:
  std::size_t Slot(std::uint64_t id) const;  // where it is, or belongs
  void Grow();

  const std::uint32_t every_;
  const std::size_t most_;
  std::size_t size_ = 0;
  // By slot: open addressing, a power of two long.
  std::vector<std::uint64_t> id_;
  std::vector<float> score_;
  std::vector<std::uint8_t> left_;  // visits that its score still decides; 255: the slot is free
};

}  // namespace siftd
