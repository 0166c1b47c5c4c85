// SPDX-License-Identifier: Apache-2.0
// TrainerCore: a trainer rank's side of the delivery rules in SAMPLES mode: sessions, credit,
// acceptance, acks, decided keys, epochs, positions. Rows go to an Assembler that the caller owns.
// One thread only. Never touches a socket.
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

struct TrainerCoreOptions {
  std::string job = "default";
  std::string name;
  std::uint64_t run = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t rank = 0;
  std::uint32_t world = 1;
  std::uint32_t loader_count = 1;
  JobSpec job_spec;
  std::uint32_t batch_size = 1;
  std::uint32_t window = 2;           // batches per session
  std::uint64_t steps_per_epoch = 0;  // > 0: passes mix and loaders repeat them; world > 1 needs it
  DecidedSet decided;                 // restored from a state
  Duration hello_deadline = milliseconds(5000);
};

struct TrainerActions {
  using Send = ClientSend;
  std::vector<std::size_t> reconnect;  // before sends
  std::vector<Send> sends;
  std::vector<Selected> accepted;  // rows to take in, in this order; each key once
  // Passes whose keys are all decided, after `accepted`. World 1: an epoch, all loaders' passes at
  // once.
  struct Ended {
    std::uint32_t epoch = 0;
    std::vector<EpochEnd> passes;
  };
  std::vector<Ended> ended;
  std::vector<std::string> log;
};

class TrainerCore {
 public:
  TrainerCore(TrainerCoreOptions options, std::size_t workers, MonoTime now);
  ~TrainerCore();

  std::size_t AddWorker(MonoTime now);
  // How texts call the worker; else "worker 0".
  void NameWorker(std::size_t w, const std::string& name);
  void OnMessage(std::size_t w, Message message, MonoTime now);
  void OnLinkLost(std::size_t w, const std::string& why, MonoTime now);
  // The connection does not come about: see ClientLinks.
  void OnRefused(std::size_t w, const std::string& why, bool for_good, MonoTime now);
  // The socket took no message: see ClientLinks.
  void OnNotSent(std::size_t w, MonoTime now);
  void OnTick(MonoTime now);
  // `emptied`: keys all of whose rows left the buffer; their credit returns. `buffered_rows` = rows
  // that the assembler holds now; also to be told once for rows restored from a state.
  void OnConsumed(const std::vector<BatchKey>& emptied, std::size_t buffered_rows, MonoTime now);
  void SetStep(std::uint64_t step);
  // Goodbye(done) to all workers, relayed to the loaders. From now on what arrives is acked and
  // dropped.
  void Finish(MonoTime now);
  // Says Goodbye(leaving) everywhere: this process ends, the run does not.
  void Leave(MonoTime now);
  // After Finish: all acks are out, and every worker that is connected was heard a heartbeat
  // interval after its Goodbye. One that is gone is not waited for while another can tell the
  // loaders; with none connected it stays false, until the caller's linger deadline.
  bool Idle() const;
  // World 1: every loader has made its final pass; no further epoch will come.
  bool AllFinal() const;

  DecidedSet decided() const;
  std::uint64_t decided_count() const;
  std::uint64_t duplicates() const;
  // Workers that are known; those with a session in force.
  std::size_t workers() const;
  std::size_t connected() const;
  std::string WaitingFor(MonoTime now) const;
  const Status& failure() const;

  TrainerActions TakeActions();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
