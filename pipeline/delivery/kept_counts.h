// SPDX-License-Identifier: Apache-2.0
// KeptCounts: how many rows a rank accepted of each decided key, for a whole run: about 4 bytes a
// key. A duplicate is acked with the count of the first (design rule 5). Value; one thread at a
// time.
#pragma once

#include <array>
#include <cstdint>
#include <map>

#include "pipeline/data/batch_key.h"

namespace siftd {

class KeptCounts {
 public:
  void Set(const BatchKey& key, std::uint32_t kept) {
    blocks_[BlockOf(key)][key.seq % kBlock] = kept;
  }
  // 0 for a key that was never set: decided before this process began.
  std::uint32_t Get(const BatchKey& key) const {
    const auto it = blocks_.find(BlockOf(key));
    return it == blocks_.end() ? 0 : it->second[key.seq % kBlock];
  }

 private:
  static constexpr std::uint64_t kBlock = 256;
  static BatchKey BlockOf(const BatchKey& key) { return {key.loader, key.pass, key.seq / kBlock}; }

  std::map<BatchKey, std::array<std::uint32_t, kBlock>> blocks_;
};

}  // namespace siftd
