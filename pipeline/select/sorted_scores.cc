// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/sorted_scores.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

namespace siftd {
namespace {

// Neighbours that fit here together become one; below kBlock, lest they split again at once.
constexpr std::uint32_t kJoin = SortedScores::kBlock * 2 / 3;
constexpr std::int32_t kNone = std::numeric_limits<std::int32_t>::max();  // no finite score's

template <typename T>
typename std::vector<T>::iterator Iter(std::vector<T>& v, std::size_t at) {
  return v.begin() + static_cast<std::ptrdiff_t>(at);
}

}  // namespace

SortedScores::Key SortedScores::KeyOf(float score) {
  const auto bits = std::bit_cast<std::int32_t>(score + 0.0f);  // -0 is 0
  return bits ^ ((bits >> 31) & std::numeric_limits<std::int32_t>::max());
}

std::size_t SortedScores::BlockOf(Key key) const {
  const Key* at = last_.data();
  std::size_t n = last_.size();
  if (n == 0) return 0;
  while (n > 1) {
    const std::size_t half = n / 2;
    at += half & -static_cast<std::size_t>(at[half - 1] < key);  // a ternary becomes a branch
    n -= half;
  }
  return static_cast<std::size_t>(at - last_.data()) + (*at < key ? 1 : 0);
}

void SortedScores::Insert(float score) {
  const Key key = KeyOf(score);
  std::size_t at = BlockOf(key);
  if (at == blocks_.size()) {  // above all
    if (blocks_.empty()) {
      blocks_.push_back(Take());
      last_.push_back(key);
      count_.push_back(0);
    }
    at = blocks_.size() - 1;
    last_[at] = key;
  }
  if (count_[at] == kBlock) {
    Split(at);
    if (last_[at] < key) ++at;
  }
  const Block& old = *blocks_[at];
  Block& block = *scratch_;
  block[0] = std::min(old[0], key);
  for (std::size_t i = 1; i < kBlock; ++i) {
    const Key moved = old[i - 1] < key ? key : old[i - 1];
    const Key own = old[i];
    block[i] = moved < own ? moved : own;
  }
  blocks_[at].swap(scratch_);
  ++count_[at];
  ++size_;
  stale_ = true;
}

void SortedScores::Erase(float score) {
  const Key key = KeyOf(score);
  const std::size_t at = BlockOf(key);
  Block& block = *blocks_[at];
  for (std::size_t i = 0; i + 1 < kBlock; ++i) {
    const Key own = block[i];
    const Key next = block[i + 1];
    block[i] = own < key ? own : next;
  }
  block[kBlock - 1] = kNone;
  --size_;
  stale_ = true;
  const std::uint32_t left = --count_[at];
  if (left == 0) return Remove(at);
  last_[at] = block[left - 1];
  if (at + 1 < blocks_.size() && left + count_[at + 1] <= kJoin) return JoinNext(at);
  if (at > 0 && count_[at - 1] + left <= kJoin) JoinNext(at - 1);
}

std::size_t SortedScores::Below(float score) {
  if (stale_) {
    before_.resize(blocks_.size());
    std::uint64_t before = 0;
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      before_[i] = before;
      before += count_[i];
    }
    stale_ = false;
  }
  const Key key = KeyOf(score);
  const std::size_t at = BlockOf(key);
  if (at == blocks_.size()) return size_;
  const Block& block = *blocks_[at];
  std::uint32_t less = 0;
  for (std::size_t i = 0; i < kBlock; ++i) less += block[i] < key ? 1 : 0;
  return before_[at] + less;
}

SortedScores::BlockPtr SortedScores::Take() {
  if (spare_.empty()) {  // a quarter more than there are: the number varies
    for (std::size_t i = 0; i <= blocks_.size() / 4; ++i)
      spare_.push_back(std::make_unique<Block>());
  }
  BlockPtr block = std::move(spare_.back());
  spare_.pop_back();
  block->fill(kNone);
  return block;
}

void SortedScores::Split(std::size_t at) {
  constexpr std::size_t kHalf = kBlock / 2;
  BlockPtr upper = Take();
  Block& lower = *blocks_[at];
  std::copy(lower.begin() + kHalf, lower.end(), upper->begin());
  std::fill(lower.begin() + kHalf, lower.end(), kNone);
  last_.insert(Iter(last_, at), lower[kHalf - 1]);
  count_[at] = kHalf;
  count_.insert(Iter(count_, at), kHalf);
  blocks_.insert(Iter(blocks_, at + 1), std::move(upper));
}

void SortedScores::JoinNext(std::size_t at) {
  std::copy_n(blocks_[at + 1]->begin(), count_[at + 1], blocks_[at]->begin() + count_[at]);
  count_[at] += count_[at + 1];
  last_[at] = last_[at + 1];
  Remove(at + 1);
}

void SortedScores::Remove(std::size_t at) {
  spare_.push_back(std::move(blocks_[at]));
  blocks_.erase(Iter(blocks_, at));
  last_.erase(Iter(last_, at));
  count_.erase(Iter(count_, at));
}

}  // namespace siftd
