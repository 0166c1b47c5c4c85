// SPDX-License-Identifier: Apache-2.0
// LoaderCore: a loader's side of the delivery rules, for both modes, as one pure state machine:
// sessions to all workers, leases, credit, resending, passes. One thread only. Never touches a
// socket or a clock.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "pipeline/delivery/client_links.h"

namespace siftd {

struct LoaderCoreOptions {
  Mode mode = Mode::kSamples;
  std::string job = "default";
  std::string name;
  std::uint64_t incarnation = 0;
  std::uint32_t index = 0;
  std::uint32_t count = 1;
  std::uint64_t run = 0;  // kVerdicts: this process's own
  JobSpec job_spec;       // kVerdicts
  std::vector<TensorSpec> signature;
  std::uint64_t max_batch_bytes = 0;
  Fingerprint fingerprint;
  // A sample is scored on every n-th visit only, and decided by its last score in between;
  // [1, ScoreCache::kMostEvery]. Needs ids that name samples.
  std::uint32_t rescore_every = 1;
  Duration hello_deadline = milliseconds(5000);  // no Welcome: reconnect
  Duration lease_deadline = milliseconds(0);     // 0: the worker's Return alone decides
};

struct LoaderActions {
  using Send = ClientSend;
  struct Accepted {
    Verdict verdict;
    Duration age;  // since it was sent
  };
  std::vector<std::size_t>
      reconnect;  // close that worker's socket and open a new one (before sends)
  std::vector<Send> sends;
  std::vector<Accepted> verdicts;  // kVerdicts: each key once
  std::vector<Duration> late;      // kVerdicts: ages of verdicts on leases that were given up
  std::vector<BatchKey> settled;   // kSamples: keys whose lease ended
  std::vector<std::string> log;
};

// Where the data source has to go on: after Position, or at the start (kVerdicts).
struct LoaderPosition {
  std::uint64_t run = 0;
  std::uint64_t next_pass = 0;
  DecidedSet decided;  // skip these
  bool repeat = false;
};

class LoaderCore {
 public:
  LoaderCore(LoaderCoreOptions options, std::size_t workers, MonoTime now);
  ~LoaderCore();

  // The worker list is fixed but for additions (DNS).
  std::size_t AddWorker(MonoTime now);
  // How texts call the worker; else "worker 0".
  void NameWorker(std::size_t w, const std::string& name);
  // Frames of worker `w`'s current socket.
  void OnMessage(std::size_t w, Message message, MonoTime now);
  // The socket failed, or its bytes made no sense.
  void OnLinkLost(std::size_t w, const std::string& why, MonoTime now);
  // The connection does not come about: see ClientLinks.
  void OnRefused(std::size_t w, const std::string& why, bool for_good, MonoTime now);
  // The socket took no message: see ClientLinks.
  void OnNotSent(std::size_t w, MonoTime now);
  void OnTick(MonoTime now);

  // The run's position once known (again after each new run); taking it clears it.
  std::optional<LoaderPosition> TakePosition();
  // Hands a batch over as a lease; session, run, attempt and, with rescore_every, prior_score are
  // filled in. Skipped when its key is
  // decided already. Error kFailedPrecondition while no position is known, a new one was not taken
  // yet, or the pass is not open.
  Status Offer(Candidates batch, MonoTime now);
  // Batches that wait to be sent (again); the caller keeps it small (1 or 2) so that memory stays
  // flat.
  std::size_t unsent() const;
  // Leases out or waiting to be sent.
  std::size_t outstanding() const;
  // All batches of the pass were offered. kSamples only.
  void EndPass(std::uint64_t pass, std::uint32_t epoch, std::uint64_t batches, bool final,
               MonoTime now);
  // kSamples, world 1: the pass was acked and the next one may be offered. World > 1: true at once.
  bool PassAcked(std::uint64_t pass) const;
  // The trainers said Goodbye(done), or every offered batch is settled and the final pass acked.
  bool done() const;
  // kVerdicts: gives up a pass: late verdicts of it are dropped.
  void CancelPass(std::uint64_t pass, MonoTime now);
  // Verdicts that came for no lease: a pass given up, a lease closed, or a key decided twice.
  std::uint64_t late_verdicts() const;
  // kVerdicts: this key was handed out unsifted; its lease is over.
  void CloseLease(const BatchKey& key, MonoTime now);
  // Heartbeats carry it. kVerdicts: the trainer's step.
  void SetStep(std::uint64_t step);
  // Says Goodbye everywhere.
  void Leave(MonoTime now);

  // Workers that are known; those with a session in force.
  std::size_t workers() const;
  std::size_t connected() const;
  // What the loader waits for, for errors at a deadline: peers, stage, next step. Empty: for
  // nothing.
  std::string WaitingFor(MonoTime now) const;
  // A fatal refusal (SUPERSEDED after Welcome, JOB_MISMATCH, BUDGET_TOO_SMALL): nothing more will
  // happen.
  const Status& failure() const;

  LoaderActions TakeActions();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
