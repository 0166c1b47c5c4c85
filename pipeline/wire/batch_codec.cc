// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/limits.h"
#include "pipeline/wire/message_codec.h"

namespace siftd::wire {

Result<Candidates> From(const v1::Candidates& from, const Frames& frames) {
  Candidates m;
  const auto n = static_cast<std::size_t>(from.sample_id_size());
  if (n == 0) return Refuse("sample_id's length", "0", "1 to " + std::to_string(limits::kMaxRows));
  SIFTD_RETURN_IF_ERROR(CheckAtMost("sample_id's length", n, limits::kMaxRows));
  if (from.occurrence_size() != 0 && from.occurrence_size() != from.sample_id_size()) {
    return Refuse("occurrence's length", std::to_string(from.occurrence_size()),
                  "0 or " + std::to_string(n));
  }
  if (from.prior_score_size() != 0 && from.prior_score_size() != from.sample_id_size()) {
    return Refuse("prior_score's length", std::to_string(from.prior_score_size()),
                  "0 or " + std::to_string(n));
  }
  SIFTD_RETURN_IF_ERROR(CheckKey(from.key()));
  SIFTD_ASSIGN_OR_RETURN(m.tensors, FromTensors(from.tensor(), frames, n));
  m.session = From(from.session());
  m.run = from.run();
  m.key = From(from.key());
  m.epoch = from.epoch();
  m.attempt = from.attempt();
  m.sample_id = ToVector<std::uint64_t>(from.sample_id());
  m.occurrence = ToVector<std::uint32_t>(from.occurrence());
  m.prior_score = ToVector<float>(from.prior_score());
  m.trainer_step = from.trainer_step();
  m.suspect = from.suspect();
  m.unscored = from.unscored();
  m.required_version = from.required_version();
  return m;
}

void To(const Candidates& from, v1::Candidates* to, Frames* frames) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  To(from.key, to->mutable_key());
  to->set_epoch(from.epoch);
  to->set_attempt(from.attempt);
  FromVector(from.sample_id, to->mutable_sample_id());
  FromVector(from.occurrence, to->mutable_occurrence());
  FromVector(from.prior_score, to->mutable_prior_score());
  ToTensors(from.tensors, to->mutable_tensor(), frames);
  to->set_trainer_step(from.trainer_step);
  to->set_suspect(from.suspect);
  to->set_unscored(from.unscored);
  to->set_required_version(from.required_version);
}

Result<Selected> From(const v1::Selected& from, const Frames& frames) {
  Selected m;
  SIFTD_ASSIGN_OR_RETURN(m.decision, From(from.decision()));
  const std::size_t k = m.decision.kept.size();
  if (static_cast<std::size_t>(from.sample_id_size()) != k) {
    return Refuse("sample_id's length", std::to_string(from.sample_id_size()),
                  "the number of kept rows, " + std::to_string(k));
  }
  SIFTD_RETURN_IF_ERROR(CheckKey(from.key()));
  SIFTD_ASSIGN_OR_RETURN(m.tensors, FromTensors(from.tensor(), frames, k));
  m.session = From(from.session());
  m.run = from.run();
  m.key = From(from.key());
  m.epoch = from.epoch();
  m.sample_id = ToVector<std::uint64_t>(from.sample_id());
  return m;
}

void To(const Selected& from, v1::Selected* to, Frames* frames) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  To(from.key, to->mutable_key());
  to->set_epoch(from.epoch);
  To(from.decision, to->mutable_decision());
  FromVector(from.sample_id, to->mutable_sample_id());
  ToTensors(from.tensors, to->mutable_tensor(), frames);
}

Result<Verdict> From(const v1::Verdict& from, const Frames& /*frames*/) {
  Verdict m;
  SIFTD_ASSIGN_OR_RETURN(m.decision, From(from.decision()));
  SIFTD_RETURN_IF_ERROR(CheckKey(from.key()));
  m.session = From(from.session());
  m.run = from.run();
  m.key = From(from.key());
  m.epoch = from.epoch();
  return m;
}

void To(const Verdict& from, v1::Verdict* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  To(from.key, to->mutable_key());
  to->set_epoch(from.epoch);
  To(from.decision, to->mutable_decision());
}

}  // namespace siftd::wire
