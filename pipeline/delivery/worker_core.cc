// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/worker_core.h"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "pipeline/delivery/worker_core_impl.h"

namespace siftd {
namespace {

constexpr Duration kRecentSpan = std::chrono::seconds(10);

// Which role may send what to a worker; everything else is NOT_ALLOWED.
template <typename T>
constexpr bool Allowed(Role role) {
  if constexpr (std::is_same_v<T, Heartbeat> || std::is_same_v<T, Goodbye>) return true;
  if constexpr (std::is_same_v<T, Candidates> || std::is_same_v<T, EpochEnd>)
    return role == Role::kLoader;
  if constexpr (std::is_same_v<T, Credit> || std::is_same_v<T, Ack> ||
                std::is_same_v<T, EpochAck> || std::is_same_v<T, Position>) {
    return role == Role::kTrainer;
  }
  if constexpr (std::is_same_v<T, ModelBegin> || std::is_same_v<T, ModelChunk> ||
                std::is_same_v<T, ModelCommit>) {
    return role == Role::kPublisher;
  }
  if constexpr (std::is_same_v<T, StatusRequest>) return role == Role::kMonitor;
  return false;
}

template <typename T>
constexpr bool kHandled = Allowed<T>(Role::kLoader) || Allowed<T>(Role::kTrainer) ||
                          Allowed<T>(Role::kPublisher) || Allowed<T>(Role::kMonitor);

}  // namespace

std::string ErrorName(ErrorCode code) {
  static constexpr std::array<const char*, 23> kNames{"NONE",
                                                      "HELLO_REQUIRED",
                                                      "SUPERSEDED",
                                                      "PROTOCOL_VERSION",
                                                      "MALFORMED",
                                                      "NOT_ALLOWED",
                                                      "JOB_MISMATCH",
                                                      "RUN_OBSOLETE",
                                                      "TOO_LARGE",
                                                      "CREDIT_EXCEEDED",
                                                      "BAD_TENSOR",
                                                      "NO_MODEL",
                                                      "MODEL_MISMATCH",
                                                      "MODEL_CORRUPT",
                                                      "MODEL_NOT_FINITE",
                                                      "ARTIFACT_REFUSED",
                                                      "SCORING_FAILED",
                                                      "NON_FINITE_SCORE",
                                                      "STALE",
                                                      "DRAINING",
                                                      "BUDGET_TOO_SMALL",
                                                      "QUARANTINED",
                                                      "INTERNAL"};
  const auto i = static_cast<std::size_t>(code);
  return i < kNames.size() ? kNames[i] : "UNKNOWN";
}

WorkerCore::WorkerCore(WorkerCoreOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {
  impl_->started = Now();
  impl_->job_name = impl_->options.job;
  impl_->artifact_sha256 = impl_->options.artifact_sha256;
}

WorkerCore::~WorkerCore() = default;

void WorkerCore::OnMessage(PeerHandle from, Message message, MonoTime now) {
  if (auto* hello = std::get_if<Hello>(&message))
    return impl_->OnHello(from, std::move(*hello), now);
  std::visit(
      [&](auto& m) {
        using T = std::decay_t<decltype(m)>;
        WorkerSession* s = impl_->FindByPeer(from, m.session);
        if (s == nullptr) {
          if constexpr (!std::is_same_v<T, ErrorMessage>) {
            impl_->Refuse(from, m.session, ErrorCode::kHelloRequired,
                          "this session is not known here", "open a new connection and say Hello",
                          true);
          }
          return;
        }
        s->heard = now;
        if constexpr (kHandled<T>) {
          if (Allowed<T>(s->seat.role)) return impl_->On(*s, m, now);
        }
        if constexpr (!std::is_same_v<T, ErrorMessage>) {
          impl_->Refuse(from, m.session, ErrorCode::kNotAllowed,
                        std::string("a ") + RoleName(s->seat.role) + " may not send this message",
                        "see the table of roles in proto/README.md", false);
          impl_->Breach(from, "a message that its role may not send", now);
        }
      },
      message);
}

void WorkerCore::OnMalformed(PeerHandle from, const Status& why, MonoTime now) {
  const auto seat = impl_->seat_of.find(from);
  impl_->Refuse(
      from, seat == impl_->seat_of.end() ? SessionId{} : impl_->sessions.at(seat->second).id,
      ErrorCode::kMalformed, why.message(), "see proto/README.md for the message's layout", false);
  impl_->Breach(from, "bytes that are no message: " + why.message(), now);
}

void WorkerCore::OnUnreachable(PeerHandle peer, MonoTime now) {
  const auto seat = impl_->seat_of.find(peer);
  if (seat != impl_->seat_of.end())
    impl_->EndSession(Seat(seat->second), now, "its connection is gone");
}

void WorkerCore::Impl::On(WorkerSession& s, Heartbeat& m, MonoTime /*now*/) {
  const bool counts =
      s.seat.role == Role::kTrainer || s.seat.role == Role::kPublisher || verdicts();
  if (counts && m.run == run) trainer_step = std::max(trainer_step, m.step);
}

void WorkerCore::Impl::On(WorkerSession& s, StatusRequest& /*m*/, MonoTime now) {
  SendTo(s, Snapshot(now), now);
}

void WorkerCore::OnTick(MonoTime now) {
  Impl& m = *impl_;
  std::vector<Seat> silent;
  for (auto& [seat, s] : m.sessions) {
    if (now - s.heard > m.options.liveness) {
      silent.push_back(seat);
    } else if (now - s.sent >= m.options.heartbeat) {
      m.SendTo(s, Heartbeat{{}, m.run, m.trainer_step, s.decided, 0, 0}, now);
    }
  }
  for (const Seat& seat : silent) m.EndSession(seat, now, "silent for too long");

  std::vector<BatchKey> late;
  std::vector<BatchKey> stranded;
  for (const auto& [key, entry] : m.entries) {
    const auto lost = m.rank_lost.find(m.RankOf(key.loader));
    if (!entry.decided && now - entry.since > m.options.score_deadline)
      late.push_back(key);
    else if (!m.verdicts() && lost != m.rank_lost.end() &&
             now - lost->second > 2 * m.options.liveness) {
      stranded.push_back(key);
    }
  }
  if (!late.empty()) m.ReturnKeys(late, ReturnReason::kDeadline, now);
  if (!stranded.empty()) m.ReturnKeys(stranded, ReturnReason::kRankUnreachable, now);
  while (!m.recent.empty() && now - m.recent.front().first > kRecentSpan) m.recent.pop_front();
  m.PumpCredit(now);
}

void WorkerCore::StartDrain(const std::string& reason, MonoTime now) {
  Impl& m = *impl_;
  if (m.draining) return;
  m.draining = true;
  m.drain_reason = reason;
  m.actions.log.push_back("draining: " + reason);
  for (auto& [seat, s] : m.sessions) m.SendTo(s, Drain{{}, reason}, now);
  std::vector<BatchKey> undecided;
  for (const auto& [key, entry] : m.entries) {
    if (!entry.decided) undecided.push_back(key);
  }
  m.waiting.clear();
  m.ahead.clear();
  m.ReturnKeys(undecided, ReturnReason::kDrain, now);
}

bool WorkerCore::drained() const { return impl_->draining && impl_->entries.empty(); }

bool WorkerCore::deserted() const {
  return std::none_of(impl_->sessions.begin(), impl_->sessions.end(),
                      [](const auto& s) { return s.first.role != Role::kMonitor; });
}

WorkerActions WorkerCore::TakeActions() { return std::exchange(impl_->actions, {}); }

std::string WorkerCore::NotReadyReason() const {
  const Impl& m = *impl_;
  if (m.draining) return "draining: " + m.drain_reason;
  if (m.artifact_sha256.empty()) return "waits for a scorer artifact";
  return "";
}

StatusReply WorkerCore::Snapshot(MonoTime now) const { return impl_->Snapshot(now); }

StatusReply WorkerCore::Impl::Snapshot(MonoTime now) const {
  StatusReply r = counters;
  r.worker_name = options.name;
  r.version = options.version;
  r.worker_incarnation = options.incarnation;
  r.device = options.device;
  r.job = job_name;
  r.run = run;
  r.mode = job == nullptr ? Mode::kUnspecified : job->mode;
  r.draining = draining;
  if (draining) {
    r.not_ready_reason = "draining: " + drain_reason;
  } else if (artifact_sha256.empty()) {
    r.not_ready_reason = "waits for a scorer artifact";
  } else if (run == 0) {
    r.not_ready_reason = "waits for a run";
  } else if (!model_ready) {
    r.not_ready_reason = "waits for the run's model";
  }
  r.ready = r.not_ready_reason.empty();
  r.uptime_seconds = Seconds(now - started);
  r.model_version = model_version;
  r.model_step = model_step;
  r.model_age_seconds = model_ready ? Seconds(now - model_since) : 0;
  r.trainer_step = trainer_step;
  r.held_batches = entries.size();
  for (const auto& [loader, bytes] : lane_bytes) r.held_bytes += bytes;
  r.budget_bytes = options.budget_bytes;
  std::uint64_t rows = 0;
  for (const auto& [when, n] : recent) rows += n;
  if (!recent.empty())
    r.rows_per_second =
        static_cast<double>(rows) / std::max(1.0, Seconds(now - recent.front().first));
  for (const auto& [seat, s] : sessions) {
    r.peers.push_back({seat.role, s.hello.name,
                       seat.role == Role::kMonitor ? 0 : static_cast<std::uint32_t>(seat.index),
                       s.id.counter,
                       seat.role == Role::kTrainer ? s.out.free_batches() : s.in.outstanding(),
                       Seconds(now - s.heard)});
  }
  return r;
}

}  // namespace siftd
