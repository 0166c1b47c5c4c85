// SPDX-License-Identifier: Apache-2.0
// BatchFigures: what became of candidates so far, and how a decision is told row by row. Values.
#pragma once

#include <cstdint>
#include <limits>

#include "pipeline/data/decision.h"

namespace siftd {

// Rows but where the name says otherwise; of the whole run.
struct BatchFigures {
  std::uint64_t candidates = 0;
  std::uint64_t decided = 0;
  std::uint64_t kept = 0;
  std::uint64_t unsifted = 0;  // of kept
  std::uint64_t cancelled = 0;
  std::uint64_t rejected_batches = 0;
  std::uint64_t scored_rows = 0;
  double score_seconds = 0;  // of the workers
  std::uint64_t verdicts = 0;
  double verdict_seconds_sum = 0;

  void Count(const Decision& d) {
    decided += d.rows;
    kept += d.kept.size();
    if (d.outcome == Outcome::kUnsifted) unsifted += d.kept.size();
    if (d.score.empty()) return;
    score_seconds += d.score_seconds;
    scored_rows += d.rows;
  }
};

// What rows tell of a decision: NaN where the policy has no probability; rows that were not sifted
// have p = 1, weight 1 and no percentile.
inline void CompleteForRows(Decision& d) {
  if (d.outcome == Outcome::kDecided) {
    if (d.keep_probability.empty())
      d.keep_probability.assign(d.rows, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  d.keep_probability.assign(d.rows, 1.0f);
  d.weight.clear();
  d.percentile.clear();
}

}  // namespace siftd
