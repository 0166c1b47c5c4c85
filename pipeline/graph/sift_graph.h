// SPDX-License-Identifier: Apache-2.0
// SiftGraph: the way of a candidate batch through a worker, as a oneTBB flow graph:
//
//   Submit -> queue -> limiter -> decode -> batcher -> queue -> score -> select -> emit ->
//   DecidedPort
//                         ^     (serial)  (serial)          (ScorerPort) (serial) (serial)      |
//                         +---------------------- one place is free again --------------------+
//
// Submit, Tick, Stages: any thread. Start, Close: the owner. Every batch that was submitted reaches
// DecidedPort exactly once, also when a stage fails (rejected) or after Close (rejected with
// kDraining). It never blocks a caller.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/ports.h"
#include "pipeline/graph/batcher.h"

namespace siftd {

struct SiftGraphOptions {
  BatcherOptions batcher;
  int max_inflight = 64;  // batches between limiter and emit, [1, 65536]
  int threads = 1;        // of the graph's arena, [1, 256]; forwards run on the scorer's lanes

  Status Validate() const;
};

class SiftGraph {
 public:
  // Decides a scored batch; called by one thread at a time, in the order of scoring.
  using SelectFn = std::function<void(ScoredBatch&)>;

  // REQUIRES: options.Validate().ok(); scorer and decided outlive the graph.
  SiftGraph(const SiftGraphOptions& options, ScorerPort* scorer, SelectFn select,
            DecidedPort* decided);
  ~SiftGraph();
  SiftGraph(const SiftGraph&) = delete;
  SiftGraph& operator=(const SiftGraph&) = delete;

  void Submit(ScoredBatchPtr batch);
  // Lets a group that waits for more batches go when it is old enough. Call every max_age or so.
  void Tick();
  // Runs `f` between two Selects, on a graph thread: for changes to what SelectFn uses.
  void RunInSelect(std::function<void()> f);

  // Batches of each stage, with the time that they worked and waited.
  std::vector<StageStatus> Stages() const;
  // Submitted and not yet decided.
  std::size_t inflight() const;

  // Everything pending is decided; returns when it is. The scorer must still answer.
  void Close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
