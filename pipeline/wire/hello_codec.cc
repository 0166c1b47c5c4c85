// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/limits.h"
#include "pipeline/wire/message_codec.h"

namespace siftd::wire {

static_assert(limits::kMaxIncarnation == kMaxIncarnation);

Result<Hello> From(const v1::Hello& from, const Frames& /*frames*/) {
  Hello m;
  if (from.role() < v1::ROLE_LOADER || from.role() > v1::ROLE_MONITOR) {
    return Refuse("role", std::to_string(from.role()), "1 to 4 (enum Role)");
  }
  SIFTD_RETURN_IF_ERROR(CheckText("job", from.job(), limits::kMaxJobBytes));
  SIFTD_RETURN_IF_ERROR(CheckText("name", from.name(), limits::kMaxNameBytes));
  m.session = From(from.session());
  if (m.session.counter == 0) return Refuse("session.counter", "0", "1 or more");
  SIFTD_RETURN_IF_ERROR(
      CheckAtMost("session.incarnation", m.session.incarnation, limits::kMaxIncarnation));
  SIFTD_RETURN_IF_ERROR(CheckAtMost("run", from.run(), limits::kMaxIncarnation));
  SIFTD_RETURN_IF_ERROR(CheckAtMost("world", from.world(), limits::kMaxLoaders));
  m.protocol_min = from.protocol_min();
  m.protocol_max = from.protocol_max();
  m.role = static_cast<Role>(from.role());
  m.job = from.job();
  m.name = from.name();
  m.run = from.run();
  m.rank = from.rank();
  m.world = from.world();
  if (m.role == Role::kTrainer && m.rank >= m.world) {
    return Refuse("rank", std::to_string(m.rank), "below world = " + std::to_string(m.world));
  }
  if (from.has_job_spec()) {
    m.has_job_spec = true;
    SIFTD_ASSIGN_OR_RETURN(m.job_spec, From(from.job_spec()));
  }
  SIFTD_ASSIGN_OR_RETURN(m.decided, From(from.decided()));
  m.loader_index = from.loader_index();
  m.loader_count = from.loader_count();
  SIFTD_RETURN_IF_ERROR(CheckAtMost("loader_count", m.loader_count, limits::kMaxLoaders));
  if (m.role == Role::kLoader && m.loader_index >= m.loader_count) {
    return Refuse("loader_index", std::to_string(m.loader_index),
                  "below loader_count = " + std::to_string(m.loader_count));
  }
  SIFTD_RETURN_IF_ERROR(CheckAtMost(
      "signature's length", static_cast<std::size_t>(from.signature_size()), limits::kMaxTensors));
  for (int i = 0; i < from.signature_size(); ++i) {
    SIFTD_ASSIGN_OR_RETURN(TensorSpec spec, From({"signature", i}, from.signature(i)));
    m.signature.push_back(std::move(spec));
  }
  std::vector<std::string_view> names;
  for (const TensorSpec& spec : m.signature) names.push_back(spec.name);
  SIFTD_RETURN_IF_ERROR(CheckUnique("signature", names));
  m.max_batch_bytes = from.max_batch_bytes();
  m.fingerprint = {from.fingerprint().data_size(), from.fingerprint().batch_size(),
                   from.fingerprint().seed()};
  return m;
}

void To(const Hello& from, v1::Hello* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_protocol_min(from.protocol_min);
  to->set_protocol_max(from.protocol_max);
  to->set_role(static_cast<v1::Role>(from.role));
  to->set_job(from.job);
  to->set_name(from.name);
  to->set_run(from.run);
  to->set_rank(from.rank);
  to->set_world(from.world);
  if (from.has_job_spec) To(from.job_spec, to->mutable_job_spec());
  if (!from.decided.intervals.empty() || !from.decided.next_pass.empty()) {
    To(from.decided, to->mutable_decided());
  }
  to->set_loader_index(from.loader_index);
  to->set_loader_count(from.loader_count);
  for (const TensorSpec& spec : from.signature) To(spec, to->add_signature());
  to->set_max_batch_bytes(from.max_batch_bytes);
  to->mutable_fingerprint()->set_data_size(from.fingerprint.data_size);
  to->mutable_fingerprint()->set_batch_size(from.fingerprint.batch_size);
  to->mutable_fingerprint()->set_seed(from.fingerprint.seed);
}

Result<Welcome> From(const v1::Welcome& from, const Frames& /*frames*/) {
  Welcome m;
  SIFTD_RETURN_IF_ERROR(CheckText("worker_name", from.worker_name(), limits::kMaxNameBytes));
  SIFTD_RETURN_IF_ERROR(CheckText("artifact_sha256", from.artifact_sha256(), 64));
  m.session = From(from.session());
  m.protocol = from.protocol();
  m.worker_incarnation = from.worker_incarnation();
  m.worker_name = from.worker_name();
  m.heartbeat_ms = from.heartbeat_ms();
  m.liveness_ms = from.liveness_ms();
  m.max_frame_bytes = from.max_frame_bytes();
  m.max_batch_bytes = from.max_batch_bytes();
  m.max_rows = from.max_rows();
  m.run = from.run();
  m.model_version = from.model_version();
  m.needs_artifact = from.needs_artifact();
  m.artifact_upload = from.artifact_upload();
  m.artifact_sha256 = from.artifact_sha256();
  return m;
}

void To(const Welcome& from, v1::Welcome* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_protocol(from.protocol);
  to->set_worker_incarnation(from.worker_incarnation);
  to->set_worker_name(from.worker_name);
  to->set_heartbeat_ms(from.heartbeat_ms);
  to->set_liveness_ms(from.liveness_ms);
  to->set_max_frame_bytes(from.max_frame_bytes);
  to->set_max_batch_bytes(from.max_batch_bytes);
  to->set_max_rows(from.max_rows);
  to->set_run(from.run);
  to->set_model_version(from.model_version);
  to->set_needs_artifact(from.needs_artifact);
  to->set_artifact_upload(from.artifact_upload);
  to->set_artifact_sha256(from.artifact_sha256);
}

}  // namespace siftd::wire
