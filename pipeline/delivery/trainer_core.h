// SPDX-License-Identifier: Apache-2.0
// TrainerCore: a trainer rank's side of the delivery rules in SAMPLES mode: sessions, credit, acceptance, acks, decided
// keys, epochs, positions. Rows go to an Assembler that the caller owns. One thread only. Never touches a socket.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"

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
  std::uint32_t window = 2;         // batches per session
  std::uint64_t steps_per_epoch = 0;  // world > 1: > 0
  DecidedSet decided;               // restored from a state
  Duration hello_deadline = milliseconds(5000);
};

struct TrainerActions {
  struct Send {
    std::size_t worker = 0;
    Message message;
  };
  std::vector<std::size_t> reconnect;  // before sends
  std::vector<Send> sends;
  std::vector<Selected> accepted;      // rows to take in, in this order; each key once
  std::vector<std::uint32_t> ended;    // epochs that are complete (world 1), ascending, after `accepted`
  std::vector<std::string> log;
};

class TrainerCore {
 public:
  TrainerCore(TrainerCoreOptions options, std::size_t workers, MonoTime now);
  ~TrainerCore();

  std::size_t AddWorker(MonoTime now);
  void OnMessage(std::size_t w, Message message, MonoTime now);
  void OnLinkLost(std::size_t w, const std::string& why, MonoTime now);
  void OnTick(MonoTime now);
  // Rows of `key` left the buffer: when all of a batch's rows are gone its credit returns. `buffered_rows` = rows that
  // the assembler holds now.
  void OnConsumed(const std::vector<BatchKey>& emptied, std::size_t buffered_rows, MonoTime now);
  void SetStep(std::uint64_t step);
  // Goodbye(done) to all workers, relayed to the loaders; acks are served until Idle().
  void Finish(MonoTime now);
  // After Finish: every loader left or the workers said so.
  bool Idle() const;

  DecidedSet decided() const;
  std::uint64_t decided_count() const;
  std::uint64_t duplicates() const;
  std::size_t connected() const;
  std::string WaitingFor(MonoTime now) const;
  const Status& failure() const;

  TrainerActions TakeActions();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
