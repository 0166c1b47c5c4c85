// SPDX-License-Identifier: Apache-2.0
// Policy: which rows of one candidate batch are kept, from their scores and coins. One class per
// rule; pure but for a score history. One thread. Never sees a row whose score is not finite.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "pipeline/data/job.h"

namespace siftd {

struct PolicyInput {
  std::span<const float> score;  // [n], finite
  std::span<const double> coin;  // [n], in [0, 1)
};

// Sized n by the policy; buffers are reused from batch to batch.
struct PolicyOutput {
  std::vector<std::uint8_t> keep;
  std::vector<float> probability;  // [n], or empty: the rule has no probability of a single row
  std::vector<float> percentile;   // [n], or empty
};

class Policy {
 public:
  virtual ~Policy() = default;
  virtual void Select(const PolicyInput& in, PolicyOutput* out) = 0;
  // A batch passed by outside of the policy's window: only the history learns from it.
  virtual void Observe(std::span<const float> /*score*/) {}
  // Rows are kept independently, each with its own probability, so that 1 / p is its importance
  // weight.
  virtual bool bernoulli() const = 0;
};

// Keeps row i iff coin[i] < probability[i].
void DrawBernoulli(std::span<const double> coin, PolicyOutput* out);

// REQUIRES: Validate(options).ok() and a chosen kind
std::unique_ptr<Policy> MakePolicy(const PolicyOptions& options);

}  // namespace siftd
