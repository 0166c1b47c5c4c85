// SPDX-License-Identifier: Apache-2.0
// SortedScores: a multiset of scores that knows how many lie below a value. Blocks of at most
// kBlock scores, themselves in order: a binary search over the blocks' greatest scores, then one
// pass over a block, both without a branch that depends on the data. Insert, Erase: O(log n).
// Below: O(log n), and O(n / kBlock) once after changes, so calls should come in batches. Memory:
// below 20 bytes per score, of which nothing is given back. One thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace siftd {

class SortedScores {
 public:
  // REQUIRES: finite
  void Insert(float score);
  // One of those equal to `score`. REQUIRES: it is there.
  void Erase(float score);
  // How many are strictly less.
  std::size_t Below(float score);

  std::size_t size() const { return size_; }
  std::size_t blocks() const { return blocks_.size(); }

  static constexpr std::size_t kBlock = 96;  // of 64 to 128 the quickest at 10,000 scores

 private:
  using Key = std::int32_t;  // ordered as its score is; loops over integers become vector code
  using Block = std::array<Key, kBlock>;  // ascending, then kNone
  using BlockPtr = std::unique_ptr<Block>;

  static Key KeyOf(float score);
  // The first block that holds a key >= `key`, or blocks().
  std::size_t BlockOf(Key key) const;
  BlockPtr Take();
  void Split(std::size_t at);
  void JoinNext(std::size_t at);
  void Remove(std::size_t at);

  // By block; none is empty.
  std::vector<BlockPtr> blocks_;
  std::vector<Key> last_;              // its greatest
  std::vector<std::uint32_t> count_;   // its scores
  std::vector<std::uint64_t> before_;  // scores in the blocks before it, unless stale_

  bool stale_ = false;
  std::size_t size_ = 0;
  std::vector<BlockPtr> spare_;
  BlockPtr scratch_ = std::make_unique<Block>();  // Insert writes here, then swaps
};

}  // namespace siftd
