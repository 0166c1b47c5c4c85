// SPDX-License-Identifier: Apache-2.0
#include "pipeline/data/decision.h"

#include <numeric>
#include <utility>

namespace siftd {

Decision UnsiftedDecision(std::uint32_t rows) {
  Decision d;
  d.outcome = Outcome::kUnsifted;
  d.rows = rows;
  d.kept.resize(rows);
  std::iota(d.kept.begin(), d.kept.end(), 0u);
  return d;
}

Decision RejectedDecision(std::uint32_t rows, ErrorCode code, std::string text) {
  Decision d;
  d.outcome = Outcome::kRejected;
  d.code = code;
  d.text = std::move(text);
  d.rows = rows;
  return d;
}

}  // namespace siftd
