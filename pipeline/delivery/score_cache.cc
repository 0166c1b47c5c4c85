// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/score_cache.h"

#include <cmath>
#include <limits>
#include <utility>

namespace siftd {
namespace {

constexpr std::uint8_t kFree = 255;
constexpr std::size_t kFirstSlots = 1024;

// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
std::uint64_t Mixed(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

}  // namespace

std::size_t ScoreCache::Slot(std::uint64_t id) const {
  const std::size_t mask = id_.size() - 1;
  std::size_t at = Mixed(id) & mask;
  while (left_[at] != kFree && id_[at] != id) at = (at + 1) & mask;
  return at;
}

void ScoreCache::Grow() {
  const std::size_t slots = id_.empty() ? kFirstSlots : 2 * id_.size();
  const auto id = std::exchange(id_, std::vector<std::uint64_t>(slots));
  const auto score = std::exchange(score_, std::vector<float>(slots));
  const auto left = std::exchange(left_, std::vector<std::uint8_t>(slots, kFree));
  for (std::size_t i = 0; i < id.size(); ++i) {
    if (left[i] == kFree) continue;
    const std::size_t at = Slot(id[i]);
    id_[at] = id[i];
    score_[at] = score[i];
    left_[at] = left[i];
  }
}

std::vector<float> ScoreCache::Visit(const std::vector<std::uint64_t>& ids) {
  if (every_ == 1) return {};
  std::vector<float> prior(ids.size(), std::numeric_limits<float>::quiet_NaN());
  if (size_ == 0) return prior;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::size_t at = Slot(ids[i]);
    if (left_[at] == kFree || left_[at] == 0) continue;
    --left_[at];
    prior[i] = score_[at];
  }
  return prior;
}

void ScoreCache::Take(const std::vector<std::uint64_t>& ids, const std::vector<float>& prior,
                      const std::vector<float>& score) {
  if (every_ == 1 || score.size() != ids.size() || prior.size() != ids.size()) return;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (!std::isnan(prior[i]) || !std::isfinite(score[i])) continue;
    if (3 * (size_ + 1) > 2 * id_.size()) Grow();
    const std::size_t at = Slot(ids[i]);
    if (left_[at] != kFree) {
      left_[at] = static_cast<std::uint8_t>(every_ - 1);
    } else if (size_ == most_) {
      continue;
    } else {  // the first score: how long it stands spreads the visits to score over the passes
      ++size_;
      id_[at] = ids[i];
      left_[at] = static_cast<std::uint8_t>((Mixed(ids[i]) >> 32) % every_);
    }
    score_[at] = score[i];
  }
}

}  // namespace siftd
