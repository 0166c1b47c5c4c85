// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/prior_rows.h"

#include <limits>

namespace siftd {

ScoredBatchPtr ToScore(const ScoredBatchPtr& batch) {
  const Candidates& in = batch->candidates;
  if (in.prior_score.empty()) return batch;
  const std::vector<std::uint32_t> rows = RowsToScore(in);
  if (rows.size() == in.sample_id.size()) return batch;
  auto part = std::make_shared<ScoredBatch>();
  for (const std::uint32_t row : rows) part->candidates.sample_id.push_back(in.sample_id[row]);
  for (const Tensor& tensor : in.tensors)
    part->candidates.tensors.push_back(GatherRows(tensor, rows));
  return part;
}

void TakeScores(const ScoredBatch& part, ScoredBatch* batch) {
  if (&part == batch) {
    batch->scored_rows = static_cast<std::uint32_t>(batch->candidates.sample_id.size());
    return;
  }
  const std::vector<std::uint32_t> rows = RowsToScore(batch->candidates);
  batch->scored_rows = static_cast<std::uint32_t>(rows.size());
  batch->scores.names = part.scores.names;
  batch->scores.columns.assign(part.scores.columns.size(),
                               std::vector<float>(batch->candidates.sample_id.size(),
                                                  std::numeric_limits<float>::quiet_NaN()));
  for (std::size_t c = 0; c < part.scores.columns.size(); ++c) {
    for (std::size_t i = 0; i < rows.size(); ++i)
      batch->scores.columns[c][rows[i]] = part.scores.columns[c][i];
  }
  batch->model_version = part.model_version;
  batch->model_step = part.model_step;
}

}  // namespace siftd
