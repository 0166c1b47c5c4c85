// SPDX-License-Identifier: Apache-2.0
// Feeder: a loader and its trainer rank in one process, with a thread each, that keep a pool of
// workers busy. `top_k` keeps the same number of rows of each candidate batch and the trainer's
// batches are as large, so that each arrival is one batch, whose delay is known.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "pipeline/base/thread.h"
#include "siftd/loader_client.h"
#include "siftd/trainer_client.h"

namespace siftd::bench {

struct FeederOptions {
  ClientOptions client;
  std::uint32_t index = 0;      // of the loader
  std::uint32_t count = 1;      // loaders, as many as trainer ranks
  std::uint64_t run = 0;        // 0: of its own
  std::uint32_t window = 2;     // of the trainer, per worker
  std::vector<Tensor> tensors;  // of each candidate batch, [rows, ...]
};

class Feeder {
 public:
  // Connects the trainer. Ends the process with a message on any error.
  explicit Feeder(FeederOptions options);
  // Ends the pass and serves what is under way. REQUIRES: the only rank; of several, none sees the
  // end of an epoch
  ~Feeder();

  std::uint64_t run() const { return trainer_->run(); }

  // Connects the loader, which waits for Go. Once the pool has the run's model, if it needs one.
  void Start();
  void Go();
  // Offers no more; returns when all that was offered has arrived.
  void Pause();

  std::uint64_t arrived() const { return arrived_.load(std::memory_order_acquire); }
  // Returns when more than `batches` arrived.
  void WaitArrived(std::uint64_t batches) const;

  struct Delay {
    MonoTime offered;
    MonoTime arrived;
  };
  // Of the batches since Go. REQUIRES: paused
  const std::vector<Delay>& delays() const { return delays_; }

  std::size_t rows() const { return rows_; }

 private:
  void Offer();
  void Train();

  const FeederOptions options_;
  const std::size_t rows_;
  std::unique_ptr<TrainerClient> trainer_;
  std::unique_ptr<LoaderClient> loader_;

  std::mutex mu_;
  std::condition_variable changed_;
  bool going_ = false;                // guarded by mu_
  bool over_ = false;                 // guarded by mu_
  std::vector<MonoTime> offered_at_;  // by seq; guarded by mu_
  std::vector<Delay> delays_;         // guarded by mu_

  std::atomic<std::uint64_t> arrived_{0};
  Thread train_;
  Thread offer_;
};

// The value, or the end of the process with the error's message.
template <typename T>
T Must(Result<T> result);
void Must(const Status& status);

[[noreturn]] void Fail(const Status& status);

template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) Fail(result.status());
  return std::move(result).value();
}

// The thread that calls it, and those that it makes, run on `core` alone; < 0: where they may.
void PinTo(int core);

}  // namespace siftd::bench
