// SPDX-License-Identifier: Apache-2.0
// GivenUp: leases that their loader gave up while a worker had them, until that worker's verdict
// comes: how long it took tells whether workers answer in time again. Value; one thread. Remembers
// the newest 4,096: verdicts that a dead worker owes never come.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <unordered_map>

#include "pipeline/base/clock.h"
#include "pipeline/data/batch_key.h"

namespace siftd {

class GivenUp {
 public:
  static constexpr std::size_t kMost = 4096;

  void Add(const BatchKey& key, MonoTime sent);
  // When it was sent; nullopt: it was not given up, or is forgotten.
  std::optional<MonoTime> Take(const BatchKey& key);

 private:
  std::unordered_map<BatchKey, MonoTime> sent_;
  std::deque<BatchKey> order_;  // may hold keys that were taken
};

}  // namespace siftd
