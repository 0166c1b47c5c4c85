// SPDX-License-Identifier: Apache-2.0
#include "pipeline/data/scored_batch.h"

#include <algorithm>
#include <cmath>

namespace siftd {

std::vector<std::uint32_t> RowsToScore(const Candidates& batch) {
  std::vector<std::uint32_t> rows;
  rows.reserve(batch.sample_id.size());
  for (std::uint32_t i = 0; i < batch.sample_id.size(); ++i) {
    if (i >= batch.prior_score.size() || std::isnan(batch.prior_score[i])) rows.push_back(i);
  }
  return rows;
}

std::int64_t CountToScore(const Candidates& batch) {
  const std::vector<float>& prior = batch.prior_score;
  return static_cast<std::int64_t>(batch.sample_id.size() - prior.size()) +
         std::count_if(prior.begin(), prior.end(), [](float s) { return std::isnan(s); });
}

}  // namespace siftd
