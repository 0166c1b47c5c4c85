// SPDX-License-Identifier: Apache-2.0
// Batcher: merges candidate batches of equal inputs into groups for one forward. Pure; one caller
// at a time. It never splits a batch and never reorders batches of equal inputs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
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
  // `make`: gives an empty group.
  explicit Batcher(
      const BatcherOptions& options,
      std::function<ScoreGroupPtr()> make = [] { return std::make_shared<ScoreGroup>(); })
      : options_(options), make_(std::move(make)) {}

  // Each appends the groups that became ready, at most two, to `ready`.
  // A suspect batch is always a group by itself.
  void Add(ScoredBatchPtr batch, MonoTime now, std::vector<ScoreGroupPtr>* ready);
  // The group that is being filled, if it is old enough.
  void Tick(MonoTime now, std::vector<ScoreGroupPtr>* ready);
  // Whatever is being filled.
  void Flush(std::vector<ScoreGroupPtr>* ready);

  bool empty() const { return open_ == nullptr; }

 private:
  bool Fits(const ScoredBatch& batch) const;

  const BatcherOptions options_;
  const std::function<ScoreGroupPtr()> make_;
  ScoreGroupPtr open_;
  MonoTime opened_{};
};

}  // namespace siftd
