// SPDX-License-Identifier: Apache-2.0
// Weights and artifacts on their way from the publisher to the model thread.
#include <utility>

#include "pipeline/base/hex.h"
#include "pipeline/delivery/worker_core_impl.h"

namespace siftd {

void WorkerCore::Impl::RefuseModel(WorkerSession& s, std::uint64_t version, ErrorCode code,
                                   std::string text, MonoTime now) {
  ++counters.model_refused;
  ++counters.errors[ErrorName(code)];
  transfer = ModelKind::kUnspecified;
  SendTo(s, ModelAck{{}, run, version, ModelState::kRefused, 0, code, std::move(text)}, now);
}

void WorkerCore::Impl::On(WorkerSession& s, ModelBegin& m, MonoTime now) {
  if (m.run != run) return;
  if (m.kind == ModelKind::kArtifact && !options.artifact_upload) {
    return RefuseModel(
        s, m.version, ErrorCode::kArtifactRefused,
        "this worker takes no artifact over the wire (it is code): start it with the artifact's "
        "path, or with allow_artifact_upload: true",
        now);
  }
  if (m.kind == ModelKind::kArtifact && !options.artifact_pinned.empty() &&
      Hex(m.sha256) != options.artifact_pinned) {
    return RefuseModel(s, m.version, ErrorCode::kArtifactRefused,
                       "the artifact's SHA-256 is " + Hex(m.sha256) +
                           "; allowed by this worker's artifact_sha256: " + options.artifact_pinned,
                       now);
  }
  if (m.kind != ModelKind::kArtifact && m.version <= model_version && model_ready) {
    return RefuseModel(s, m.version, ErrorCode::kModelMismatch,
                       "version is " + std::to_string(m.version) +
                           "; allowed: above the one in force, " + std::to_string(model_version),
                       now);
  }
  if (m.kind == ModelKind::kDelta && !model_ready) {
    return RefuseModel(s, m.version, ErrorCode::kModelMismatch,
                       "a DELTA needs a FULL version of this run before it", now);
  }
  transfer = m.kind;
  transfer_version = m.version;
  actions.model_work.emplace_back(std::move(m));
}

void WorkerCore::Impl::On(WorkerSession& /*s*/, ModelChunk& m, MonoTime /*now*/) {
  // Chunks behind a refused Begin are dropped: the publisher was told.
  if (m.run != run || transfer == ModelKind::kUnspecified || m.version != transfer_version) return;
  actions.model_work.emplace_back(std::move(m));
}

void WorkerCore::Impl::On(WorkerSession& /*s*/, ModelCommit& m, MonoTime /*now*/) {
  if (m.run != run || transfer == ModelKind::kUnspecified || m.version != transfer_version) return;
  actions.model_work.emplace_back(m);
}

void WorkerCore::OnModelAck(ModelAck ack, std::uint64_t step, const std::string& sha256,
                            MonoTime now) {
  Impl& m = *impl_;
  if (ack.run != m.run) return;  // of a run that is over
  if (ack.state == ModelState::kApplied && m.transfer == ModelKind::kArtifact) {
    m.artifact_sha256 = sha256;
    // It holds weights of its own: until the run's next FULL version nothing is scored with them.
    m.model_ready = false;
    m.model_version = 0;
    m.model_step = 0;
    m.actions.log.push_back("scorer artifact " + sha256.substr(0, 12) + " loaded");
  } else if (ack.state == ModelState::kApplied) {
    if (!m.model_ready)
      m.actions.log.push_back("model version " + std::to_string(ack.version) + " is in force");
    m.model_ready = true;
    m.model_version = ack.version;
    m.model_step = step;
    m.model_since = now;
    m.trainer_step = std::max(m.trainer_step, step);
    m.AdmitWaiting(now);
  } else if (ack.state == ModelState::kRefused) {
    ++m.counters.model_refused;
    ++m.counters.errors[ErrorName(ack.code)];
    m.actions.log.push_back("model version " + std::to_string(ack.version) +
                            " refused: " + ack.text);
  }
  if (ack.state != ModelState::kReceiving) m.transfer = ModelKind::kUnspecified;
  if (WorkerSession* publisher = m.Find(Role::kPublisher, 0))
    m.SendTo(*publisher, std::move(ack), now);
  m.AdmitAhead(now);
  m.PumpCredit(now);
}

}  // namespace siftd
