// SPDX-License-Identifier: Apache-2.0
// What selector.h says about PolicyOptions as a whole: ranges, text, column.
#include <variant>

#include "pipeline/select/composer_rank.h"
#include "pipeline/select/confidence.h"
#include "pipeline/select/loss_cdf.h"
#include "pipeline/select/option_range.h"
#include "pipeline/select/selector.h"
#include "pipeline/select/top_k.h"
#include "pipeline/select/uniform.h"

namespace siftd {
namespace {

Status Validate(std::monostate) { return OkStatus(); }

std::string Text(std::monostate) { return "auto"; }
std::string Text(const UniformOptions& o) { return "uniform(keep=" + NumberText(o.keep) + ")"; }
std::string Text(const ConfidenceOptions& o) {
  return "confidence(tau=" + NumberText(o.tau) + ", floor=" + NumberText(o.floor) + ")";
}
std::string Text(const LossCdfOptions& o) {
  std::string text = "loss_cdf(beta=" + NumberText(o.beta) +
                     ", loss_history_length=" + std::to_string(o.loss_history_length);
  if (o.floor > 0) text += ", floor=" + NumberText(o.floor);
  if (o.clip < 1) text += ", clip=" + NumberText(o.clip);
  return text + ")";
}
std::string Text(const ComposerRankOptions& o) {
  return "composer_rank(keep=" + NumberText(o.keep) + ")";
}
std::string Text(const TopKOptions& o) { return "top_k(keep=" + NumberText(o.keep) + ")"; }

Status ValidateModifiers(const ModifierOptions& m) {
  SIFTD_RETURN_IF_ERROR(CheckUnit("modifiers.start", m.start));
  SIFTD_RETURN_IF_ERROR(CheckUnit("modifiers.end", m.end));
  if (m.start >= m.end) {
    return OutOfRange("modifiers.start", NumberText(m.start),
                      "below modifiers.end = " + NumberText(m.end));
  }
  if (m.interrupt == 1) {
    return OutOfRange("modifiers.interrupt", "1",
                      "0 (never) or >= 2; 1 would leave every batch unsifted");
  }
  return OkStatus();
}

}  // namespace

Status Validate(const PolicyOptions& options) {
  SIFTD_RETURN_IF_ERROR(std::visit([](const auto& o) { return Validate(o); }, options.kind));
  if (options.column.size() > 256) {
    return OutOfRange("policy.column", std::to_string(options.column.size()) + " bytes long",
                      "at most 256");
  }
  return ValidateModifiers(options.modifiers);
}

std::string ToString(const PolicyOptions& options) {
  return std::visit([](const auto& o) { return Text(o); }, options.kind);
}

std::string PolicyColumn(const PolicyOptions& options) {
  if (!options.column.empty()) return options.column;
  return std::holds_alternative<ConfidenceOptions>(options.kind) ? "confidence" : "loss";
}

}  // namespace siftd
