// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/limits.h"
#include "pipeline/wire/message_codec.h"

namespace siftd::wire {

Result<StatusRequest> From(const v1::Status& from, const Frames& /*frames*/) {
  return StatusRequest{From(from.session())};
}

void To(const StatusRequest& from, v1::Status* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
}

Result<StatusReply> From(const v1::StatusReply& from, const Frames& /*frames*/) {
  StatusReply m;
  m.session = From(from.session());
  m.worker_name = from.worker_name();
  m.version = from.version();
  m.worker_incarnation = from.worker_incarnation();
  m.job = from.job();
  m.run = from.run();
  m.mode = v1::Mode_IsValid(from.mode()) ? static_cast<Mode>(from.mode()) : Mode::kUnspecified;
  m.policy = from.policy();
  m.device = from.device();
  m.ready = from.ready();
  m.draining = from.draining();
  m.not_ready_reason = from.not_ready_reason();
  m.uptime_seconds = from.uptime_seconds();
  m.model_version = from.model_version();
  m.model_step = from.model_step();
  m.model_age_seconds = from.model_age_seconds();
  m.trainer_step = from.trainer_step();
  m.candidates = from.candidates();
  m.kept = from.kept();
  m.dropped = from.dropped();
  m.unsifted = from.unsifted();
  m.rejected_batches = from.rejected_batches();
  m.decided_batches = from.decided_batches();
  m.rows_per_second = from.rows_per_second();
  m.held_batches = from.held_batches();
  m.held_bytes = from.held_bytes();
  m.budget_bytes = from.budget_bytes();
  m.non_finite_rows = from.non_finite_rows();
  m.model_refused = from.model_refused();
  m.duplicates = from.duplicates();
  m.scored = from.scored();
  for (const v1::StageStatus& s : from.stage()) {
    m.stages.push_back({s.stage(), s.batches(), s.busy_seconds(), s.wait_seconds(), s.queued()});
  }
  for (const v1::PeerStatus& p : from.peer()) {
    const Role role = v1::Role_IsValid(p.role()) ? static_cast<Role>(p.role()) : Role::kUnspecified;
    m.peers.push_back(
        {role, p.name(), p.index(), p.session_counter(), p.credit_batches(), p.silent_seconds()});
  }
  m.errors.insert(from.errors().begin(), from.errors().end());
  return m;
}

void To(const StatusReply& from, v1::StatusReply* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_worker_name(from.worker_name);
  to->set_version(from.version);
  to->set_worker_incarnation(from.worker_incarnation);
  to->set_job(from.job);
  to->set_run(from.run);
  to->set_mode(static_cast<v1::Mode>(from.mode));
  to->set_policy(from.policy);
  to->set_device(from.device);
  to->set_ready(from.ready);
  to->set_draining(from.draining);
  to->set_not_ready_reason(ClipText(from.not_ready_reason));
  to->set_uptime_seconds(from.uptime_seconds);
  to->set_model_version(from.model_version);
  to->set_model_step(from.model_step);
  to->set_model_age_seconds(from.model_age_seconds);
  to->set_trainer_step(from.trainer_step);
  to->set_candidates(from.candidates);
  to->set_kept(from.kept);
  to->set_dropped(from.dropped);
  to->set_unsifted(from.unsifted);
  to->set_rejected_batches(from.rejected_batches);
  to->set_decided_batches(from.decided_batches);
  to->set_rows_per_second(from.rows_per_second);
  to->set_held_batches(from.held_batches);
  to->set_held_bytes(from.held_bytes);
  to->set_budget_bytes(from.budget_bytes);
  to->set_non_finite_rows(from.non_finite_rows);
  to->set_model_refused(from.model_refused);
  to->set_duplicates(from.duplicates);
  to->set_scored(from.scored);
  for (const StageStatus& s : from.stages) {
    v1::StageStatus* stage = to->add_stage();
    stage->set_stage(s.stage);
    stage->set_batches(s.batches);
    stage->set_busy_seconds(s.busy_seconds);
    stage->set_wait_seconds(s.wait_seconds);
    stage->set_queued(s.queued);
  }
  for (const PeerStatus& p : from.peers) {
    v1::PeerStatus* peer = to->add_peer();
    peer->set_role(static_cast<v1::Role>(p.role));
    peer->set_name(p.name);
    peer->set_index(p.index);
    peer->set_session_counter(p.session_counter);
    peer->set_credit_batches(p.credit_batches);
    peer->set_silent_seconds(p.silent_seconds);
  }
  to->mutable_errors()->insert(from.errors.begin(), from.errors.end());
}

Result<Heartbeat> From(const v1::Heartbeat& from, const Frames& /*frames*/) {
  return Heartbeat{From(from.session()),   from.run(),         from.step(), from.decided(),
                   from.oldest_lease_ms(), from.history_rows()};
}

void To(const Heartbeat& from, v1::Heartbeat* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  to->set_step(from.step);
  to->set_decided(from.decided);
  to->set_oldest_lease_ms(from.oldest_lease_ms);
  to->set_history_rows(from.history_rows);
}

Result<Drain> From(const v1::Drain& from, const Frames& /*frames*/) {
  SIFTD_RETURN_IF_ERROR(CheckText("reason", from.reason(), limits::kMaxTextBytes));
  return Drain{From(from.session()), from.reason()};
}

void To(const Drain& from, v1::Drain* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_reason(ClipText(from.reason));
}

Result<Goodbye> From(const v1::Goodbye& from, const Frames& /*frames*/) {
  if (from.reason() < v1::GOODBYE_DONE || from.reason() > v1::GOODBYE_LEAVING) {
    return Refuse("reason", std::to_string(from.reason()), "1 or 2 (enum GoodbyeReason)");
  }
  return Goodbye{From(from.session()), static_cast<GoodbyeReason>(from.reason()), from.run()};
}

void To(const Goodbye& from, v1::Goodbye* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_reason(static_cast<v1::GoodbyeReason>(from.reason));
  to->set_run(from.run);
}

Result<ErrorMessage> From(const v1::Error& from, const Frames& /*frames*/) {
  SIFTD_RETURN_IF_ERROR(CheckText("text", from.text(), limits::kMaxTextBytes));
  SIFTD_RETURN_IF_ERROR(CheckText("hint", from.hint(), limits::kMaxTextBytes));
  if (!v1::ErrorCode_IsValid(from.code()))
    return Refuse("code", std::to_string(from.code()), "0 to 22 (enum ErrorCode)");
  SIFTD_RETURN_IF_ERROR(CheckKey(from.key()));
  return ErrorMessage{From(from.session()), static_cast<ErrorCode>(from.code()),
                      from.text(),          from.hint(),
                      from.current(),       from.has_key(),
                      From(from.key()),     from.fatal()};
}

void To(const ErrorMessage& from, v1::Error* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_code(static_cast<v1::ErrorCode>(from.code));
  to->set_text(ClipText(from.text));
  to->set_hint(ClipText(from.hint));
  to->set_current(from.current);
  if (from.has_key) To(from.key, to->mutable_key());
  to->set_fatal(from.fatal);
}

}  // namespace siftd::wire
