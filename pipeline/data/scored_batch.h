// SPDX-License-Identifier: Apache-2.0
// A candidate batch on its way through the flow graph. One owner at a time: whoever holds the
// shared_ptr may change it, and hands it on whole.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/data/decision.h"
#include "pipeline/data/job.h"
#include "pipeline/data/messages.h"

namespace siftd {

// Scores of n rows; column i is float32 [n] and named names[i].
struct ScoreTable {
  std::vector<std::string> names;
  std::vector<std::vector<float>> columns;
};

struct ScoredBatch {
  // Set by the I/O thread.
  Candidates candidates;
  std::shared_ptr<const JobSpec> job;  // of candidates.run, its policy filled in
  std::uint64_t trainer_step = 0;      // newest known when it was admitted
  bool pass_through = false;           // relay all rows without scoring
  MonoTime admitted{};

  // Set by the scorer.
  ScoreTable scores;
  std::uint32_t scored_rows = 0;  // that the model scored; the others have a prior score
  std::uint64_t model_version = 0;
  std::uint64_t model_step = 0;
  Duration score_wait{};  // queued before the lane
  Duration score_busy{};  // this batch's share of the forward

  // Set by select and emit. SAMPLES: kept_tensors holds the kept rows; the candidates' tensors are
  // let go of.
  Decision decision;
  std::vector<std::uint64_t> kept_ids;
  std::vector<Tensor> kept_tensors;
};

using ScoredBatchPtr = std::shared_ptr<ScoredBatch>;

// Rows without a prior score: those that the model has to score.
std::vector<std::uint32_t> RowsToScore(const Candidates& batch);
std::int64_t CountToScore(const Candidates& batch);

}  // namespace siftd
