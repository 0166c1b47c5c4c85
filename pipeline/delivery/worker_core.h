// SPDX-License-Identifier: Apache-2.0
// WorkerCore: the worker's side of the delivery rules (design: sessions, leases, credit, lanes,
// epochs, runs, poison) as one pure state machine. It is told events with the time and answers with
// messages to send and work to do. One thread only (the I/O thread). It never touches a socket, a
// clock, a model or another thread, and never throws on foreign input: whatever a peer sends yields
// messages, counters or nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "pipeline/data/peer_rights.h"
#include "pipeline/data/scored_batch.h"

namespace siftd {

// A connection as the transport sees it; never reused. 0 = none.
using PeerHandle = std::uint64_t;

struct WorkerCoreOptions {
  std::string name;
  std::string version;
  std::string device;
  std::string job;  // empty: the first peer's job
  std::uint64_t incarnation = 0;
  std::uint64_t budget_bytes = 512ull << 20;    // of all lanes together
  std::uint64_t max_batch_bytes = 64ull << 20;  // payload of one candidate batch
  std::uint64_t max_frame_bytes = 256ull << 20;
  std::uint32_t max_rows = 65536;   // of one candidate batch
  std::uint32_t loader_window = 8;  // batches of a loader that are granted or held, at most
  Duration heartbeat = milliseconds(1000);
  Duration liveness = milliseconds(5000);         // a silent peer's session ends
  Duration score_deadline = milliseconds(60000);  // queued or scoring; then Return(deadline)
  PolicyOptions default_policy;                   // where the JobSpec names none
  // Ranges of a JobSpec's policy, which a peer chose; not set: any is taken.
  std::function<Status(const PolicyOptions&)> check_policy;
  bool artifact_upload = false;
  std::string artifact_sha256;  // of the loaded scorer; empty = none loaded
  std::string artifact_pinned;  // the only one that may be loaded; empty = any

  // Doors. `keys`: a peer may do nothing before OnPeer told its rights.
  bool keys = false;
  std::uint32_t max_peers = 4096;   // sessions; monitors a quarter of them
  std::uint32_t max_hellos = 200;   // a second of one origin, on average
  std::uint32_t max_breaches = 16;  // of the rules by one connection, then it is cut
};

// What the core wants done; the caller takes and does it all after each event, in this order.
struct WorkerActions {
  struct Send {
    PeerHandle to = 0;
    Message message;
  };
  std::vector<Send> sends;
  std::vector<PeerHandle> forget;        // after sends: nothing will be sent to these any more
  std::vector<PeerHandle> cut;           // after sends: nor is anything heard of these
  std::vector<ScoredBatchPtr> admitted;  // into the graph; each comes back through OnDecided once
  std::vector<Message>
      model_work;  // ModelBegin, ModelChunk, ModelCommit, checked for session, run and order
  bool discard_staging = false;  // the publisher's session is gone (before model_work)
  bool run_changed = false;      // forget the policy's history (before admitted)
  std::vector<std::string> log;  // one line each, for the log at level info
};

class WorkerCore {
 public:
  explicit WorkerCore(WorkerCoreOptions options);
  ~WorkerCore();
  WorkerCore(const WorkerCore&) = delete;
  WorkerCore& operator=(const WorkerCore&) = delete;

  // Who `peer` is, before its first message, and again when its rights changed: a session that it
  // may not hold any more is over.
  void OnPeer(PeerHandle peer, PeerRights rights, MonoTime now);
  void OnMessage(PeerHandle from, Message message, MonoTime now);
  // Bytes that are no message; answered with Error(MALFORMED), counted.
  void OnMalformed(PeerHandle from, const Status& why, MonoTime now);
  // A send to `peer` failed (EHOSTUNREACH, queue full): its session is over.
  void OnUnreachable(PeerHandle peer, MonoTime now);
  // The graph finished a batch.
  void OnDecided(const ScoredBatchPtr& batch, MonoTime now);
  // The model thread's answer to model_work, sent on to the publisher. kApplied sets the version in
  // force.
  void OnModelAck(ModelAck ack, std::uint64_t step, const std::string& artifact_sha256,
                  MonoTime now);
  // Deadlines, heartbeats. Call at least every heartbeat / 4.
  void OnTick(MonoTime now);
  // Stops admitting, returns what is not decided, tells every peer.
  void StartDrain(const std::string& reason, MonoTime now);
  // Nothing is held that a peer still waits for.
  bool drained() const;
  // No peer is in session but monitors.
  bool deserted() const;

  WorkerActions TakeActions();
  // Counters, peers and queues of the core; the caller adds stages and device.
  StatusReply Snapshot(MonoTime now) const;
  // Empty when ready; else why not ("waits for the run's model").
  std::string NotReadyReason() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
