// SPDX-License-Identifier: Apache-2.0
// TrainerClient: a trainer rank's stream of batches of kept rows. Every kept row comes once, in
// memory that the batch owns. One thread makes all calls; an I/O thread of its own does the rest.
// Never publishes weights (that is ModelPublisher), never blocks without a deadline that names the
// peer and the stage.
//
//   auto trainer = siftd::TrainerClient::Connect({.client = {...}, .batch_size = 128});
//   while (true) {
//     auto item = (*trainer)->Next();
//     if (!item.ok() || item->kind == siftd::TrainerItem::Kind::kRunOver) break;
//     if (item->kind == siftd::TrainerItem::Kind::kEpochOver) continue;
//     Train(item->batch);
//     (*trainer)->Step();
//   }
//   (*trainer)->Finish();
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/job.h"
#include "pipeline/data/trainer_state.h"
#include "pipeline/delivery/train_batch.h"
#include "siftd/client_options.h"

namespace siftd {

struct TrainerOptions {
  ClientOptions client;
  std::uint32_t batch_size = 32;   // rows, [1, 2^20]
  std::uint32_t rank = 0;          // [0, world - 1]
  std::uint32_t world = 1;         // [1, 65536]
  std::uint32_t loader_count = 1;  // [world, 65536]; loader i feeds rank i % world
  // Full batches that make an epoch; 0: an epoch ends when every loader ended its pass (world 1).
  std::uint64_t steps_per_epoch = 0;
  bool drop_last = false;  // with steps_per_epoch = 0: an epoch's remainder goes into the next one
  std::uint32_t window = 2;    // candidate batches buffered per worker, [1, 1024]
  std::uint32_t prefetch = 2;  // assembled batches, [1, 1024]
  // Of all ranks and the publisher; newer at each start. 0: the clock, which only world 1 may use.
  std::uint64_t run = 0;
  PolicyOptions policy;  // kind not set: the workers' own
  std::uint64_t seed = 0;
  std::uint64_t total_steps = 0;          // of the run; 0 = unknown
  std::uint64_t max_staleness_steps = 0;  // older verdicts: all rows pass unsifted; 0 = no bound
  std::optional<TrainerState> resume;     // of State(), or of siftd/state_file.h
  Duration timeout = std::chrono::minutes(10);  // of one Next()
  Duration linger = std::chrono::seconds(10);   // of Finish()

  Status Validate() const;
};

struct TrainerItem {
  enum class Kind { kBatch, kEpochOver, kRunOver };
  Kind kind = Kind::kBatch;
  TrainBatch batch;         // kBatch
  std::uint32_t epoch = 0;  // kEpochOver
};

class TrainerClient {
 public:
  static Result<std::unique_ptr<TrainerClient>> Connect(TrainerOptions options);
  // Says Goodbye. Without Finish the loaders keep their leases and wait for the next run.
  ~TrainerClient();

  // The run id in force: give it to ModelPublisher and to the other ranks.
  std::uint64_t run() const;

  // The next batch, or that an epoch or the run (every loader made its final pass) is over. Errors:
  // kDeadlineExceeded, kFailedPrecondition when the workers refuse this job.
  Result<TrainerItem> Next();
  // After each optimizer step: how stale a verdict is, is counted in these.
  void Step();

  // The last scores that the policy's percentiles look back on, oldest first; empty where it keeps
  // none. For ModelPublisher::Publish.
  std::vector<float> recent_scores() const;

  // The batch that Next gave last counts as trained.
  TrainerState State() const;

  // Tells the loaders that the run is over, and serves them until they have heard it, or for
  // options.linger. Next gives kRunOver from now on.
  void Finish();

  struct Stats {
    std::uint64_t batches = 0;     // given by Next
    std::uint64_t candidates = 0;  // rows decided
    std::uint64_t kept = 0;        // rows
    std::uint64_t unsifted = 0;    // rows that were kept without a decision
    std::uint64_t rejected_batches = 0;
    std::uint64_t duplicates = 0;    // deliveries of a decided key; not trained
    std::uint64_t dropped_rows = 0;  // drop_last, at the end of the run
    double wait_seconds = 0;         // inside Next
    std::size_t workers = 0;         // connected
  };
  Stats stats() const;

 private:
  struct Impl;
  explicit TrainerClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
