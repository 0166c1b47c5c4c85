// SPDX-License-Identifier: Apache-2.0
// The state behind WorkerCore. Its methods lie in files by subject: worker_sessions.cc (rules 1,
// 9), worker_batches.cc (rules 3 to 7, 11), worker_relay.cc (rules 8 to 10), worker_model.cc
// (weights), worker_doors.cc (rights, limits), worker_core.cc (events, time, status). Internal to
// pipeline/delivery.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>

#include "pipeline/base/rate_limit.h"
#include "pipeline/delivery/credit.h"
#include "pipeline/delivery/worker_core.h"

namespace siftd {

// A role's seat: loader index, trainer rank; each monitor has one of its own.
struct Seat {
  Role role = Role::kUnspecified;
  std::uint64_t index = 0;
  friend auto operator<=>(const Seat&, const Seat&) = default;
};

struct WorkerSession {
  PeerHandle peer = 0;
  SessionId id;
  Seat seat;
  Hello hello;
  MonoTime heard{};
  MonoTime sent{};
  std::uint64_t decided = 0;  // keys, for heartbeats

  // Loader.
  CreditReceiver in;
  std::uint64_t batch_bytes = 0;   // largest batch that its lane reckons with
  std::uint64_t position_run = 0;  // run whose Position it was given
  SessionId position_asked;        // trainer session that was asked for it

  // Trainer.
  CreditSender out;
  std::set<std::pair<std::uint32_t, std::uint64_t>> ends_sent;  // (loader, pass)
};

// A candidate batch that this worker holds. Queued, or scoring, until `batch` is gone; then
// decided.
struct WorkerEntry {
  ScoredBatchPtr batch;  // the graph's copy; null once decided
  MonoTime since{};
  std::uint64_t bytes = 0;
  bool decided = false;
  bool wants_scores = false;  // its loader keeps them: Settled brings them
  Selected selected;          // SAMPLES, once decided; kept until acked
  SessionId sent_in;          // trainer session that it was last sent in
};

// A connection, with a session or without.
struct WorkerPeer {
  PeerRights rights;
  std::uint32_t breaches = 0;
};

struct WorkerCore::Impl {
  explicit Impl(WorkerCoreOptions o) : options(std::move(o)), hellos(options.max_hellos) {}

  // worker_sessions.cc
  void OnHello(PeerHandle from, Hello hello, MonoTime now);
  bool CheckHello(PeerHandle from, const Hello& hello, MonoTime now);
  bool CheckJob(PeerHandle from, const Hello& hello);
  bool CheckLoader(PeerHandle from, const Hello& hello);
  void AdoptRun(std::uint64_t new_run);
  void EndSession(const Seat& seat, MonoTime now, const std::string& why);
  WorkerSession* Find(Role role, std::uint64_t index);
  WorkerSession* FindByPeer(PeerHandle peer, const SessionId& id);
  void SendTo(WorkerSession& s, Message message, MonoTime now);
  void Refuse(PeerHandle to, const SessionId& session, ErrorCode code, std::string text,
              std::string hint, bool fatal, std::uint64_t current = 0);

  // worker_doors.cc
  WorkerPeer& Know(PeerHandle peer);
  // Of a Hello: the role, how often, how many; false: refused.
  bool CheckDoor(PeerHandle from, const Hello& hello, MonoTime now);
  bool CheckRoom(PeerHandle from, const Hello& hello, const Seat& seat);
  // The peer broke a rule; too often, and it is cut. After the answer, if it gets one.
  void Breach(PeerHandle peer, const std::string& what, MonoTime now);
  void Cut(PeerHandle peer, const std::string& what, MonoTime now);
  void Leave(PeerHandle peer) { peers.erase(peer); }

  // worker_batches.cc
  void On(WorkerSession& s, Candidates& m, MonoTime now);
  void On(WorkerSession& s, Ack& m, MonoTime now);
  void On(WorkerSession& s, Credit& m, MonoTime now);
  void Admit(ScoredBatchPtr batch, MonoTime now);
  void AdmitWaiting(MonoTime now);
  bool Ahead(const ScoredBatch& batch) const;
  void AdmitAhead(MonoTime now);
  // A batch that may have killed a worker is being scored here, or waits for it.
  bool SuspectIsHere() const;
  void Decide(const BatchKey& key, WorkerEntry& entry, ScoredBatch& batch, MonoTime now);
  void Count(const ScoredBatch& batch);
  void ReturnKeys(const std::vector<BatchKey>& keys, ReturnReason reason, MonoTime now);
  void Erase(const BatchKey& key);
  void PumpRank(std::uint32_t rank, MonoTime now);
  void PumpCredit(MonoTime now);
  bool MayGrant(const WorkerSession& loader);
  std::uint64_t Lane(const WorkerSession& loader) const;

  // worker_relay.cc
  void On(WorkerSession& s, EpochEnd& m, MonoTime now);
  void On(WorkerSession& s, EpochAck& m, MonoTime now);
  void On(WorkerSession& s, Position& m, MonoTime now);
  void On(WorkerSession& s, Goodbye& m, MonoTime now);
  void AskPositions(std::uint32_t rank, MonoTime now);
  void RelayEnds(std::uint32_t rank, MonoTime now);
  void TellDone(WorkerSession& loader, MonoTime now);

  // worker_model.cc
  void On(WorkerSession& s, ModelBegin& m, MonoTime now);
  void On(WorkerSession& s, ModelChunk& m, MonoTime now);
  void On(WorkerSession& s, ModelCommit& m, MonoTime now);
  void RefuseModel(WorkerSession& s, std::uint64_t version, ErrorCode code, std::string text,
                   MonoTime now);

  // worker_core.cc
  void On(WorkerSession& s, Heartbeat& m, MonoTime now);
  void On(WorkerSession& s, StatusRequest& m, MonoTime now);
  StatusReply Snapshot(MonoTime now) const;
  std::uint32_t RankOf(std::uint32_t loader) const { return world == 0 ? 0 : loader % world; }
  bool verdicts() const { return job != nullptr && job->mode == Mode::kVerdicts; }

  const WorkerCoreOptions options;
  WorkerActions actions;
  MonoTime started{};
  bool draining = false;
  std::string drain_reason;

  std::map<Seat, WorkerSession> sessions;
  std::unordered_map<PeerHandle, Seat> seat_of;
  std::map<PeerHandle, WorkerPeer> peers;       // oldest first; those without a session are bounded
  RateLimit hellos;                             // by origin
  std::map<Seat, SessionId> newest;             // per seat, over the sessions' lives
  std::map<std::uint32_t, MonoTime> rank_lost;  // when a rank's session ended

  std::string job_name;
  std::uint64_t run = 0;
  std::shared_ptr<const JobSpec>
      job;            // of the run, its policy filled in; null until a Hello brought it
  JobSpec job_asked;  // as the Hello had it
  std::uint32_t world = 0;
  std::uint32_t loader_count = 0;
  std::map<std::uint32_t, Fingerprint> fingerprints;  // by loader
  std::set<std::uint32_t> done_ranks;

  std::map<BatchKey, WorkerEntry> entries;
  std::map<std::uint32_t, std::deque<BatchKey>>
      unsent;  // decided, not sent in the rank's session; by rank
  std::map<std::uint32_t, std::uint64_t> lane_bytes;  // held, by loader
  std::map<std::uint32_t, std::uint64_t> lane_batches;
  std::deque<ScoredBatchPtr> waiting;  // behind or before a suspect
  std::deque<ScoredBatchPtr> ahead;    // of the model: each requires a version that is to come
  std::size_t in_graph = 0;
  bool suspect_in_graph = false;
  std::map<std::pair<std::uint32_t, std::uint64_t>, EpochEnd> ends;  // (loader, pass), until acked

  std::string artifact_sha256;
  ModelKind transfer = ModelKind::kUnspecified;  // being received
  std::uint64_t transfer_version = 0;
  bool model_ready = false;  // the run's full model is in force
  std::uint64_t model_version = 0;
  std::uint64_t model_step = 0;
  MonoTime model_since{};
  std::uint64_t trainer_step = 0;

  StatusReply counters;                                   // only its counters are used
  std::deque<std::pair<MonoTime, std::uint64_t>> recent;  // (when, rows decided), of the last 10 s
};

// For people.
std::string ErrorName(ErrorCode code);

}  // namespace siftd
