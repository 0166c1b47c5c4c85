// SPDX-License-Identifier: Apache-2.0
// Rule 1 (sessions) and rule 9 (runs) of the worker.
#include <algorithm>

#include "pipeline/delivery/worker_core_impl.h"

namespace siftd {
namespace {

std::string Name(const Seat& seat, const std::string& name) {
  std::string text = seat.role == Role::kTrainer ? "trainer rank" : RoleName(seat.role);
  if (seat.role == Role::kLoader || seat.role == Role::kTrainer)
    text += " " + std::to_string(seat.index);
  return name.empty() ? text : text + " '" + name + "'";
}

bool OwnsRun(const Hello& hello) {
  return hello.role == Role::kTrainer || hello.role == Role::kPublisher ||
         (hello.role == Role::kLoader && hello.has_job_spec);
}

}  // namespace

WorkerSession* WorkerCore::Impl::Find(Role role, std::uint64_t index) {
  const auto it = sessions.find({role, index});
  return it == sessions.end() ? nullptr : &it->second;
}

WorkerSession* WorkerCore::Impl::FindByPeer(PeerHandle peer, const SessionId& id) {
  const auto seat = seat_of.find(peer);
  if (seat == seat_of.end()) return nullptr;
  WorkerSession& s = sessions.at(seat->second);
  return s.id == id ? &s : nullptr;
}

void WorkerCore::Impl::SendTo(WorkerSession& s, Message message, MonoTime now) {
  std::visit([&](auto& m) { m.session = s.id; }, message);
  s.sent = now;
  actions.sends.push_back({s.peer, std::move(message)});
}

void WorkerCore::Impl::Refuse(PeerHandle to, const SessionId& session, ErrorCode code,
                              std::string text, std::string hint, bool fatal,
                              std::uint64_t current) {
  ++counters.errors[ErrorName(code)];
  ErrorMessage error;
  error.session = session;
  error.code = code;
  error.text = std::move(text);
  error.hint = std::move(hint);
  error.fatal = fatal;
  error.current = current;
  actions.sends.push_back({to, std::move(error)});
}

bool WorkerCore::Impl::CheckHello(PeerHandle from, const Hello& hello, MonoTime now) {
  if (!CheckDoor(from, hello, now)) return false;
  if (hello.protocol_min > 1 || hello.protocol_max < 1) {
    Refuse(from, hello.session, ErrorCode::kProtocolVersion,
           "protocol is " + std::to_string(hello.protocol_min) + " to " +
               std::to_string(hello.protocol_max) + "; allowed: 1",
           "install a client of siftd " + options.version, true);
    return false;
  }
  if (hello.role == Role::kMonitor) return CheckRoom(from, hello, {Role::kMonitor, from});
  if (draining) {
    Refuse(from, hello.session, ErrorCode::kDraining,
           "worker '" + options.name + "' is ending: " + drain_reason,
           "use the other workers; this address may come back", false);
    return false;
  }
  const Seat seat{hello.role, hello.role == Role::kTrainer ? hello.rank : hello.loader_index};
  const auto known = newest.find(seat);
  const SessionId last = known == newest.end() ? SessionId{} : known->second;
  if (hello.session.incarnation < last.incarnation) {
    Refuse(from, hello.session, ErrorCode::kSuperseded,
           Name(seat, hello.name) + " was replaced by a later process with the same index",
           "give each loader its own index, each rank its own rank; or start again to take over",
           true, last.incarnation);
    return false;
  }
  if (hello.session <= last) return false;  // an older connection of the same process: drop it
  if (!CheckRoom(from, hello, seat)) return false;
  return CheckJob(from, hello) && (hello.role != Role::kLoader || CheckLoader(from, hello));
}

bool WorkerCore::Impl::CheckJob(PeerHandle from, const Hello& hello) {
  if (!hello.job.empty() && !job_name.empty() && hello.job != job_name) {
    const bool in_use = std::any_of(sessions.begin(), sessions.end(),
                                    [](const auto& s) { return s.first.role != Role::kMonitor; });
    if (in_use || !options.job.empty()) {
      Refuse(from, hello.session, ErrorCode::kJobMismatch,
             "job is '" + hello.job + "'; this worker serves '" + job_name + "'",
             "start workers of its own for each job", true);
      return false;
    }
  }
  if (hello.has_job_spec && options.check_policy) {
    if (const Status policy = options.check_policy(hello.job_spec.policy); !policy.ok()) {
      Refuse(from, hello.session, ErrorCode::kJobMismatch, "job_spec.policy: " + policy.message(),
             "start the trainer with a policy inside its ranges", true);
      return false;
    }
  }
  if (!OwnsRun(hello)) return true;
  if (hello.run < run) {
    Refuse(from, hello.session, ErrorCode::kRunObsolete,
           "run " + std::to_string(hello.run) + " was replaced by run " + std::to_string(run),
           "a later trainer of this job took over its workers; end this process", true, run);
    return false;
  }
  if (hello.has_job_spec && !hello.job_spec.artifact_sha256.empty() && !artifact_sha256.empty() &&
      hello.job_spec.artifact_sha256 != artifact_sha256 && !options.artifact_upload) {
    Refuse(
        from, hello.session, ErrorCode::kJobMismatch,
        "artifact_sha256 is " + hello.job_spec.artifact_sha256 + "; this worker has " +
            artifact_sha256,
        "every export differs: give the trainer the worker's own (scorer=siftd.Scorer.load(FILE)), "
        "or start the worker with --allow-artifact-upload",
        true);
    return false;
  }
  if (hello.run == run && job != nullptr && hello.has_job_spec) {
    if (!(hello.job_spec == job_asked)) {
      Refuse(from, hello.session, ErrorCode::kJobMismatch,
             "JobSpec differs from the one that this run began with",
             "give every rank of a run the same policy, seed and bounds", true);
      return false;
    }
  }
  if (hello.role == Role::kTrainer && hello.run == run && world != 0 && hello.world != world) {
    Refuse(from, hello.session, ErrorCode::kJobMismatch,
           "world is " + std::to_string(hello.world) + "; this run began with " +
               std::to_string(world),
           "start a new run for another number of ranks", true);
    return false;
  }
  return true;
}

bool WorkerCore::Impl::CheckLoader(PeerHandle from, const Hello& hello) {
  // After the last rank's Goodbye the loaders of the next job may come before its trainer.
  const bool over = world != 0 && done_ranks.size() >= world;
  const bool new_run = over || (hello.has_job_spec && hello.run > run);
  if (!new_run && loader_count != 0 && hello.loader_count != loader_count) {
    Refuse(from, hello.session, ErrorCode::kJobMismatch,
           "loader_count is " + std::to_string(hello.loader_count) + "; this job has " +
               std::to_string(loader_count),
           "start all loaders with the same loader_count", true);
    return false;
  }
  const auto known = fingerprints.find(hello.loader_index);
  if (!new_run && known != fingerprints.end() && !(known->second == hello.fingerprint)) {
    Refuse(from, hello.session, ErrorCode::kJobMismatch,
           "fingerprint (data size, batch size, seed) of loader " +
               std::to_string(hello.loader_index) + " changed",
           "restart a loader with the data, batch size and seed that the run began with", true);
    return false;
  }
  const std::uint64_t batch =
      hello.max_batch_bytes == 0 ? options.max_batch_bytes : hello.max_batch_bytes;
  const std::uint64_t lane = options.budget_bytes / hello.loader_count;
  if (batch > options.max_batch_bytes) {
    Refuse(from, hello.session, ErrorCode::kTooLarge,
           "max_batch_bytes is " + std::to_string(batch) + "; this worker takes at most " +
               std::to_string(options.max_batch_bytes),
           "send smaller batches, or raise the worker's max_batch_bytes", true);
    return false;
  }
  if (lane < batch) {
    Refuse(from, hello.session, ErrorCode::kBudgetTooSmall,
           "budget_bytes " + std::to_string(options.budget_bytes) + " / " +
               std::to_string(hello.loader_count) + " loaders = " + std::to_string(lane) +
               " bytes, less than one batch of " + std::to_string(batch),
           "raise the worker's budget_bytes, or tell max_batch_bytes in the loader's Hello", true);
    return false;
  }
  return true;
}

void WorkerCore::Impl::AdoptRun(std::uint64_t new_run) {
  run = new_run;
  entries.clear();
  unsent.clear();
  lane_bytes.clear();
  lane_batches.clear();
  waiting.clear();
  ahead.clear();
  ends.clear();
  done_ranks.clear();
  fingerprints.clear();
  rank_lost.clear();
  job.reset();
  world = 0;
  loader_count = 0;
  model_ready = false;
  model_version = 0;
  model_step = 0;
  trainer_step = 0;
  transfer = ModelKind::kUnspecified;
  actions.run_changed = true;
  actions.discard_staging = true;
  actions.admitted.clear();
  actions.model_work.clear();
  for (auto it = sessions.begin(); it != sessions.end();) {
    if (OwnsRun(it->second.hello) && it->second.hello.run < run) {
      actions.forget.push_back(it->second.peer);
      seat_of.erase(it->second.peer);
      Leave(it->second.peer);
      it = sessions.erase(it);
    } else {
      if (it->first.role == Role::kLoader) loader_count = it->second.hello.loader_count;
      ++it;
    }
  }
  actions.log.push_back("run " + std::to_string(run) + " begins; it waits for the run's model");
}

void WorkerCore::Impl::EndSession(const Seat& seat, MonoTime now, const std::string& why) {
  const auto it = sessions.find(seat);
  if (it == sessions.end()) return;
  if (seat.role != Role::kMonitor)
    actions.log.push_back(Name(seat, it->second.hello.name) + " left: " + why);
  if (seat.role == Role::kTrainer) rank_lost[static_cast<std::uint32_t>(seat.index)] = now;
  if (seat.role == Role::kPublisher) {
    actions.discard_staging = true;
    actions.model_work.clear();
    transfer = ModelKind::kUnspecified;
  }
  actions.forget.push_back(it->second.peer);
  seat_of.erase(it->second.peer);
  Leave(it->second.peer);
  sessions.erase(it);
}

void WorkerCore::Impl::OnHello(PeerHandle from, Hello hello, MonoTime now) {
  if (!CheckHello(from, hello, now)) return;
  Seat seat{hello.role, 0};
  if (hello.role == Role::kTrainer) seat.index = hello.rank;
  if (hello.role == Role::kLoader) seat.index = hello.loader_index;
  if (hello.role == Role::kMonitor) seat.index = from;
  if (hello.role != Role::kMonitor) newest[seat] = hello.session;
  if (const auto old = seat_of.find(from); old != seat_of.end())
    EndSession(old->second, now, "says Hello again");
  EndSession(seat, now, "replaced by a new connection");

  if (OwnsRun(hello) && hello.run > run) AdoptRun(hello.run);
  if (hello.role != Role::kMonitor && (job_name.empty() || !hello.job.empty()))
    job_name = hello.job;
  if (hello.has_job_spec && job == nullptr) {
    job_asked = hello.job_spec;
    JobSpec spec = hello.job_spec;
    if (std::holds_alternative<std::monostate>(spec.policy.kind)) {
      const ModifierOptions modifiers = spec.policy.modifiers;
      spec.policy = options.default_policy;
      if (!(modifiers == ModifierOptions{})) spec.policy.modifiers = modifiers;
    }
    job = std::make_shared<const JobSpec>(std::move(spec));
  }
  if (hello.role == Role::kTrainer) {
    world = hello.world;
    rank_lost.erase(hello.rank);
  }
  if (hello.role == Role::kLoader) {
    loader_count = hello.loader_count;
    fingerprints[hello.loader_index] = hello.fingerprint;
  }

  WorkerSession& s = sessions[seat];
  s.peer = from;
  s.id = hello.session;
  s.seat = seat;
  s.heard = now;
  s.batch_bytes = hello.max_batch_bytes == 0 ? options.max_batch_bytes : hello.max_batch_bytes;
  s.hello = std::move(hello);
  s.hello.decided = {};  // large, and not asked for: loaders are told by Position
  s.hello.signature.clear();
  seat_of[from] = seat;
  if (seat.role != Role::kMonitor) {
    const std::string& key = Know(from).rights.key;
    actions.log.push_back(Name(seat, s.hello.name) + " connected, run " + std::to_string(run) +
                          (key.empty() ? "" : ", key '" + key + "'"));
  }

  Welcome welcome;
  welcome.worker_incarnation = options.incarnation;
  welcome.worker_name = options.name;
  welcome.heartbeat_ms = static_cast<std::uint32_t>(options.heartbeat / milliseconds(1));
  welcome.liveness_ms = static_cast<std::uint32_t>(options.liveness / milliseconds(1));
  welcome.max_frame_bytes = options.max_frame_bytes;
  welcome.max_batch_bytes = options.max_batch_bytes;
  welcome.max_rows = options.max_rows;
  welcome.run = run;
  welcome.model_version = model_version;
  const std::string wanted = job == nullptr ? "" : job->artifact_sha256;
  welcome.needs_artifact =
      artifact_sha256.empty() || (!wanted.empty() && wanted != artifact_sha256);
  welcome.artifact_upload = options.artifact_upload;
  welcome.artifact_sha256 = artifact_sha256;
  SendTo(s, std::move(welcome), now);

  if (seat.role == Role::kTrainer) {
    const auto rank = static_cast<std::uint32_t>(seat.index);
    // Everything that was not acked goes out again, oldest epoch first.
    std::deque<BatchKey>& queue = unsent[rank];
    queue.clear();
    for (const auto& [key, entry] : entries) {
      if (entry.decided && RankOf(key.loader) == rank) queue.push_back(key);
    }
    std::stable_sort(queue.begin(), queue.end(), [this](const BatchKey& a, const BatchKey& b) {
      return entries.at(a).selected.epoch < entries.at(b).selected.epoch;
    });
    RelayEnds(rank, now);
    AskPositions(rank, now);
  }
  if (seat.role == Role::kLoader) {
    TellDone(s, now);
    if (!verdicts()) AskPositions(RankOf(s.hello.loader_index), now);
  }
  PumpCredit(now);
}

}  // namespace siftd
