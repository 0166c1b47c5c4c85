// SPDX-License-Identifier: Apache-2.0
// GroupPool: ScoreGroups that are used again, so that a batch on its way allocates none. All
// methods: any thread.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "pipeline/data/ports.h"

namespace siftd {

class GroupPool {
 public:
  // An empty group.
  ScoreGroupPtr Take() {
    const std::lock_guard lock(mu_);
    if (spare_.empty()) return std::make_shared<ScoreGroup>();
    ScoreGroupPtr group = std::move(spare_.back());
    spare_.pop_back();
    return group;
  }

  // Nobody looks into `group` any more, though some may still hold it.
  void Give(ScoreGroupPtr group) {
    group->batches.clear();
    group->rows = 0;
    const std::lock_guard lock(mu_);
    if (spare_.size() < kMost) spare_.push_back(std::move(group));
  }

 private:
  static constexpr std::size_t kMost = 64;

  std::mutex mu_;
  std::vector<ScoreGroupPtr> spare_;  // guarded by mu_
};

}  // namespace siftd
