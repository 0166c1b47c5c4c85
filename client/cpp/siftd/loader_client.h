// SPDX-License-Identifier: Apache-2.0
// LoaderClient: feeds candidate batches to a worker pool, which streams the kept rows to trainer
// rank `index % world`. It owns each batch until it is settled and sends it again when a worker or
// a link dies, so the batches of a pass must be a function of (seed, pass): a key always names the
// same samples. One thread makes all calls; an I/O thread of its own does the rest. Never trains a
// row twice, never blocks without a deadline that names the peer and the stage.
//
//   auto loader = siftd::LoaderClient::Connect({.client = {.endpoints = {"tcp://10.0.0.7:7070"}}});
//   while (true) {
//     auto pass = (*loader)->NextPass();
//     if (!pass.ok() || !pass->has_value()) break;     // an error, or the run is over
//     std::uint64_t seq = 0;
//     for (...) {
//       if ((*pass)->Wanted(seq)) offered = (*loader)->Offer(seq, ids, tensors);  // stop on
//       !kTaken
//       ++seq;
//     }
//     (*loader)->EndPass(seq);
//   }
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "siftd/client_options.h"

namespace siftd {

struct LoaderOptions {
  ClientOptions client;
  std::uint32_t index = 0;            // of this loader, [0, count - 1]
  std::uint32_t count = 1;            // loaders of the job, [1, 65536]
  std::uint64_t epochs = 0;           // passes over the data; 0: until the trainers are done
  std::uint64_t max_batch_bytes = 0;  // of one batch's tensors; 0: the workers' own limit
  Fingerprint fingerprint;            // of the data; a resumed run must show the same
  // A sample is scored on every n-th visit only, [1, 254], and decided by its last score in
  // between: scoring costs about 1 / n from the second pass on. Needs ids that name samples, the
  // same in each pass. At most 39 bytes per sample; lost with this process (then all are scored
  // again).
  std::uint32_t rescore_every = 1;
  std::vector<TensorSpec> signature;  // of the tensors; empty: told by the batches alone
  Duration start_timeout = std::chrono::seconds(120);  // for workers and the trainer's position
  // Without any progress. Trainers may pause for long (validation).
  Duration timeout = std::chrono::hours(1);

  Status Validate() const;
};

// One iteration over the loader's data.
struct LoaderPass {
  std::uint64_t number = 0;
  std::uint32_t epoch = 0;  // feeds the keep decision's coin
  // False: decided already, before a restart; it need not be loaded.
  bool Wanted(std::uint64_t seq) const;
  std::vector<DecidedInterval> decided;
};

class LoaderClient {
 public:
  static Result<std::unique_ptr<LoaderClient>> Connect(LoaderOptions options);
  // Says Goodbye; what is not settled then was not accepted by the trainer.
  ~LoaderClient();

  // The pass to offer: the next one once the trainer acked the one before, or, when a new run of
  // the trainers began, the one that it stands in. nullopt: all passes are settled, or the trainers
  // are done. Errors: kDeadlineExceeded, or kFailedPrecondition when the job refuses this loader.
  Result<std::optional<LoaderPass>> NextPass();

  enum class Offered {
    kTaken,
    kRewind,  // a new run began: go back to NextPass
    kOver,    // the trainers are done: so does NextPass say
  };
  // Batch `seq` of the pass: n ids, and tensors that each have n rows; their bytes are shared, not
  // copied, until the batch is settled. Waits for room while two batches are unsent.
  Result<Offered> Offer(std::uint64_t seq, std::vector<std::uint64_t> sample_id,
                        std::vector<Tensor> tensors, std::vector<std::uint32_t> occurrence = {});

  // All batches of the pass were offered: `batches` in all, those not wanted included.
  Status EndPass(std::uint64_t batches);

  struct Stats {
    std::uint64_t offered_batches = 0;
    std::uint64_t settled_batches = 0;
    std::size_t outstanding = 0;  // batches that are not settled
    std::size_t workers = 0;      // connected
  };
  Stats stats() const;

 private:
  struct Impl;
  explicit LoaderClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
