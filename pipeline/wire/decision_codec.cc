// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/convert.h"
#include "pipeline/wire/limits.h"

namespace siftd::wire {
namespace {

Status CheckLength(const char* field, int length, std::size_t full) {
  if (length == 0 || static_cast<std::size_t>(length) == full) return OkStatus();
  return Refuse(std::string("decision.") + field + "'s length", std::to_string(length),
                "0 or " + std::to_string(full));
}

}  // namespace

Result<Decision> From(const v1::Decision& from) {
  Decision d;
  if (from.outcome() < v1::OUTCOME_DECIDED || from.outcome() > v1::OUTCOME_REJECTED) {
    return Refuse("decision.outcome", std::to_string(from.outcome()), "1 to 3 (enum Outcome)");
  }
  if (!v1::ErrorCode_IsValid(from.code())) {
    return Refuse("decision.code", std::to_string(from.code()), "0 to 22 (enum ErrorCode)");
  }
  SIFTD_RETURN_IF_ERROR(CheckText("decision.text", from.text(), limits::kMaxTextBytes));
  SIFTD_RETURN_IF_ERROR(CheckText("decision.column", from.column(), limits::kMaxNameBytes));
  SIFTD_RETURN_IF_ERROR(CheckAtMost("decision.rows", from.rows(), limits::kMaxRows));
  const std::size_t k = static_cast<std::size_t>(from.kept_size());
  SIFTD_RETURN_IF_ERROR(CheckAtMost("decision.kept's length", k, from.rows()));
  for (int i = 0; i < from.kept_size(); ++i) {
    if (from.kept(i) >= from.rows() || (i > 0 && from.kept(i) <= from.kept(i - 1))) {
      return Refuse("decision.kept[" + std::to_string(i) + "]", std::to_string(from.kept(i)),
                    "ascending, below rows = " + std::to_string(from.rows()));
    }
  }
  const bool all = from.outcome() == v1::OUTCOME_UNSIFTED;
  if (from.outcome() != v1::OUTCOME_DECIDED && k != (all ? from.rows() : 0)) {
    return Refuse("decision.kept's length", std::to_string(k),
                  std::to_string(all ? from.rows() : 0) + " with this outcome");
  }
  SIFTD_RETURN_IF_ERROR(CheckLength("score", from.score_size(), from.rows()));
  SIFTD_RETURN_IF_ERROR(CheckLength("keep_probability", from.keep_probability_size(), from.rows()));
  SIFTD_RETURN_IF_ERROR(CheckLength("percentile", from.percentile_size(), from.rows()));
  SIFTD_RETURN_IF_ERROR(CheckLength("weight", from.weight_size(), k));
  d.outcome = static_cast<Outcome>(from.outcome());
  d.code = static_cast<ErrorCode>(from.code());
  d.text = from.text();
  d.rows = from.rows();
  d.kept = ToVector<std::uint32_t>(from.kept());
  d.score = ToVector<float>(from.score());
  d.keep_probability = ToVector<float>(from.keep_probability());
  d.weight = ToVector<float>(from.weight());
  d.percentile = ToVector<float>(from.percentile());
  d.column = from.column();
  d.model_version = from.model_version();
  d.model_step = from.model_step();
  d.score_seconds = from.score_seconds();
  return d;
}

void To(const Decision& from, v1::Decision* to) {
  to->set_outcome(static_cast<v1::Outcome>(from.outcome));
  to->set_code(static_cast<v1::ErrorCode>(from.code));
  to->set_text(ClipText(from.text));
  to->set_rows(from.rows);
  FromVector(from.kept, to->mutable_kept());
  FromVector(from.score, to->mutable_score());
  FromVector(from.keep_probability, to->mutable_keep_probability());
  FromVector(from.weight, to->mutable_weight());
  FromVector(from.percentile, to->mutable_percentile());
  to->set_column(from.column);
  to->set_model_version(from.model_version);
  to->set_model_step(from.model_step);
  to->set_score_seconds(from.score_seconds);
}

}  // namespace siftd::wire
