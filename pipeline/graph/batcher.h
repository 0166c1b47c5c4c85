// SPDX-License-Identifier: Apache-2.0
// Batcher: merges candidate batches of equal inputs into groups for one forward. Pure; one caller
// at a time. It never splits a batch and never reorders batches of equal inputs.
#pragma once

#include <cstdint>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/data/ports.h"

namespace siftd {

struct BatcherOptions {
  std::int64_t max_rows = 512;  // to score, of a group; a larger batch makes a group by itself
  Duration max_age = milliseconds(5);  // of the first batch of a group, from when it came in
};

class Batcher {
 public:
  explicit Batcher(const BatcherOptions& options) : options_(options) {}

  // Groups that became ready. A suspect batch is always a group by itself.
  std::vector<ScoreGroupPtr> Add(ScoredBatchPtr batch, MonoTime now);
  // The group that is being filled, if it is old enough.
  std::vector<ScoreGroupPtr> Tick(MonoTime now);
  // Whatever is being filled.
  std::vector<ScoreGroupPtr> Flush();

  bool empty() const { return open_ == nullptr; }

 private:
  bool Fits(const ScoredBatch& batch) const;
  void CloseOpen(std::vector<ScoreGroupPtr>* out);

  const BatcherOptions options_;
  ScoreGroupPtr open_;
  MonoTime opened_{};
};

}  // namespace siftd
