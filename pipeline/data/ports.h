// SPDX-License-Identifier: Apache-2.0
// The only doors between the flow graph and the outside. Implementations are composed in worker/.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/scored_batch.h"

namespace siftd {

// Batches to be scored in one forward: equal inputs but for the row count, one run. `rows`: of
// those, what the model has to score.
struct ScoreGroup {
  std::vector<ScoredBatchPtr> batches;
  std::int64_t rows = 0;
};
using ScoreGroupPtr = std::shared_ptr<ScoreGroup>;

// Scores groups on threads of its own (pipeline/model).
class ScorerPort {
 public:
  virtual ~ScorerPort() = default;
  // Fills scores, model_version, model_step and times of each batch, or sets decision to kRejected,
  // then calls `done` exactly once, on a lane thread; also after Close (then rejected with
  // kDraining), and looks at the group no more. Never blocks. Any thread.
  virtual void Submit(ScoreGroupPtr group, std::function<void(ScoreGroupPtr)> done) = 0;
  // Inputs of the scorer in force, or an error that says why there is none.
  virtual Status CheckInputs(const std::vector<Tensor>& tensors) const = 0;
  // Names of the scorer's columns; empty: there is no scorer.
  virtual std::vector<std::string> Columns() const { return {}; }
};

// Takes what the graph finished. Called on a graph thread; must not block.
class DecidedPort {
 public:
  virtual ~DecidedPort() = default;
  virtual void Decided(ScoredBatchPtr batch) = 0;
};

}  // namespace siftd
