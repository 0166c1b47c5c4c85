// SPDX-License-Identifier: Apache-2.0
// BatchLink: a drop-in's whole background without Python's interpreter lock: candidates in, batches
// of kept rows out. LoaderCore, BatchMaker and StarveBreaker on one I/O thread, over sockets.
// Offer, End: the thread that loads candidates. Begin, Take, Wait, Cancel, Restore, Untaken and the
// figures: the training loop's. Offer and Wait block, each with a deadline; so does Stop, until the
// thread has ended.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/python/native/batch_maker.h"
#include "client/python/native/door.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "siftd/client_options.h"

namespace siftd {

class BatchLink {
 public:
  struct Options {
    ClientOptions client;  // endpoints and keys
    Hello hello;  // what the loader says of itself, its session's incarnation, run and job included
    BatchMaker::Options batches;
    std::uint32_t prefetch = 2;  // batches ready to be taken
    Duration starve_timeout{};
  };

  explicit BatchLink(Options options);
  // In another process than the one that made it (after a fork) it ends nothing.
  ~BatchLink();
  BatchLink(const BatchLink&) = delete;
  BatchLink& operator=(const BatchLink&) = delete;

  // Resolves the endpoints and begins to connect.
  Status Start();
  // Says Goodbye, unless told not to, and ends the thread.
  void Stop(bool goodbye = true);

  // Candidates of this pass are taken from now on, and of no other.
  void Begin(std::uint64_t pass);
  enum class Offered { kTaken, kFull, kNotWanted };
  // Takes `all`, the candidate with every field, and `scored`, what of it the workers are sent;
  // bytes are shared. kFull: no room within `timeout`. kNotWanted: its pass was cancelled.
  Offered Offer(BatchMaker::Candidate& all, Candidates& scored, Duration timeout);
  // Every candidate of the pass was offered. `flush`: its remainder is not carried into the next.
  void End(std::uint64_t pass, bool flush);

  // Gives the pass in progress up, and everything that was not taken.
  void Cancel();
  Status Restore(Selected rows);

  // `step`: optimizer steps done; heartbeats and candidates carry it.
  Taken Take(std::uint64_t step);
  // Until there is an item to take.
  void Wait(Duration timeout);

  // Batches ready, then the rows that do not make one yet; oldest first.
  std::vector<TrainBatch> Untaken() const;
  std::vector<float> history() const;

  struct Figures {
    BatchFigures batches;
    std::size_t workers = 0;
    std::size_t connected = 0;
    std::size_t outstanding = 0;  // candidates that are not decided
    std::size_t ready = 0;
    std::uint64_t late_verdicts = 0;
    std::uint64_t duplicates = 0;
    std::uint64_t breaker_opened = 0;
    bool breaker_open = false;
    std::string failure;  // why nothing more will happen with any worker
  };
  Figures figures() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
