// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/policy_codec.h"

#include "pipeline/wire/convert.h"
#include "pipeline/wire/limits.h"

namespace siftd::wire {
namespace {

LossCdfOptions FromLossCdf(const v1::LossCdfPolicy& from) {
  LossCdfOptions o;
  if (from.strength_case() == v1::LossCdfPolicy::kBeta) o.beta = from.beta();
  // Kept fraction 1 / (1 + beta); a keep outside (0, 1] gives a beta that Validate refuses.
  if (from.strength_case() == v1::LossCdfPolicy::kKeep)
    o.beta = from.keep() > 0 ? 1 / from.keep() - 1 : -1;
  if (from.has_loss_history_length()) o.loss_history_length = from.loss_history_length();
  if (from.has_floor()) o.floor = from.floor();
  if (from.has_clip()) o.clip = from.clip();
  return o;
}

struct KindWriter {
  v1::Policy* to;
  void operator()(std::monostate) const {}
  void operator()(const UniformOptions& o) const { to->mutable_uniform()->set_keep(o.keep); }
  void operator()(const ConfidenceOptions& o) const {
    to->mutable_confidence()->set_tau(o.tau);
    to->mutable_confidence()->set_floor(o.floor);
  }
  void operator()(const LossCdfOptions& o) const {
    to->mutable_loss_cdf()->set_beta(o.beta);
    to->mutable_loss_cdf()->set_loss_history_length(o.loss_history_length);
    to->mutable_loss_cdf()->set_floor(o.floor);
    to->mutable_loss_cdf()->set_clip(o.clip);
  }
  void operator()(const ComposerRankOptions& o) const {
    to->mutable_composer_rank()->set_keep(o.keep);
  }
  void operator()(const TopKOptions& o) const { to->mutable_top_k()->set_keep(o.keep); }
};

}  // namespace

Result<PolicyOptions> From(const v1::Policy& from) {
  PolicyOptions o;
  switch (from.kind_case()) {
    case v1::Policy::kUniform:
      o.kind = UniformOptions{from.uniform().keep()};
      break;
    case v1::Policy::kConfidence: {
      ConfidenceOptions c;
      if (from.confidence().has_tau()) c.tau = from.confidence().tau();
      if (from.confidence().has_floor()) c.floor = from.confidence().floor();
      o.kind = c;
      break;
    }
    case v1::Policy::kLossCdf:
      o.kind = FromLossCdf(from.loss_cdf());
      break;
    case v1::Policy::kComposerRank:
      o.kind = ComposerRankOptions{from.composer_rank().keep()};
      break;
    case v1::Policy::kTopK:
      o.kind = TopKOptions{from.top_k().keep()};
      break;
    case v1::Policy::KIND_NOT_SET:
      break;
  }
  const v1::Modifiers& m = from.modifiers();
  o.modifiers.sift_delay = m.sift_delay();
  o.modifiers.repeat_delay_per_epoch = m.repeat_delay_per_epoch();
  if (m.has_start()) o.modifiers.start = m.start();
  if (m.has_end()) o.modifiers.end = m.end();
  o.modifiers.interrupt = m.interrupt();
  SIFTD_RETURN_IF_ERROR(CheckText("policy.column", from.column(), limits::kMaxNameBytes));
  o.column = from.column();
  if (!v1::NonFinite_IsValid(from.non_finite())) {
    return Refuse("policy.non_finite", std::to_string(from.non_finite()),
                  "0 to 2 (enum NonFinite)");
  }
  o.non_finite = from.non_finite() == v1::NON_FINITE_KEEP ? NonFinite::kKeep : NonFinite::kDrop;
  return o;
}

void To(const PolicyOptions& from, v1::Policy* to) {
  std::visit(KindWriter{to}, from.kind);
  v1::Modifiers* m = to->mutable_modifiers();
  m->set_sift_delay(from.modifiers.sift_delay);
  m->set_repeat_delay_per_epoch(from.modifiers.repeat_delay_per_epoch);
  m->set_start(from.modifiers.start);
  m->set_end(from.modifiers.end);
  m->set_interrupt(from.modifiers.interrupt);
  to->set_column(from.column);
  to->set_non_finite(from.non_finite == NonFinite::kKeep ? v1::NON_FINITE_KEEP
                                                         : v1::NON_FINITE_DROP);
}

Result<JobSpec> From(const v1::JobSpec& from) {
  JobSpec o;
  if (from.mode() != v1::MODE_SAMPLES && from.mode() != v1::MODE_VERDICTS) {
    return Refuse("job_spec.mode", std::to_string(from.mode()), "1 to 2 (enum Mode)");
  }
  SIFTD_RETURN_IF_ERROR(CheckText("job_spec.artifact_sha256", from.artifact_sha256(), 64));
  o.mode = static_cast<Mode>(from.mode());
  SIFTD_ASSIGN_OR_RETURN(o.policy, From(from.policy()));
  o.seed = from.seed();
  o.artifact_sha256 = from.artifact_sha256();
  o.total_steps = from.total_steps();
  o.max_staleness_steps = from.max_staleness_steps();
  o.stale_unsifted = from.stale_unsifted();
  return o;
}

void To(const JobSpec& from, v1::JobSpec* to) {
  to->set_mode(static_cast<v1::Mode>(from.mode));
  To(from.policy, to->mutable_policy());
  to->set_seed(from.seed);
  to->set_artifact_sha256(from.artifact_sha256);
  to->set_total_steps(from.total_steps);
  to->set_max_staleness_steps(from.max_staleness_steps);
  to->set_stale_unsifted(from.stale_unsifted);
}

}  // namespace siftd::wire
