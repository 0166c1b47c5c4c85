// SPDX-License-Identifier: Apache-2.0
// Batches of which some rows have a prior score: only the others go to the model. Pure; any thread.
#pragma once

#include "pipeline/data/scored_batch.h"

namespace siftd {

// `batch` itself, or, where some of its rows have a prior score, one of the other rows alone,
// copied into memory of its own. REQUIRES: the tensors are checked, at least one row has no prior
// score
ScoredBatchPtr ToScore(const ScoredBatchPtr& batch);

// Scores and version of `part`, made by ToScore(batch), as `batch`'s own; NaN where a row has a
// prior score.
void TakeScores(const ScoredBatch& part, ScoredBatch* batch);

}  // namespace siftd
