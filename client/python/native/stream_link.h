// SPDX-License-Identifier: Apache-2.0
// StreamLink: a trainer rank's stream of batches for Python, without the interpreter lock:
// TrainerCore and Assembler on an I/O thread. What is trained is counted in Python, from the posts
// and spans that come with batches. All calls: the training loop's thread; the figures: any. Wait
// and Finish block, each with a deadline; so does Stop, until the thread has ended.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "client/python/native/batch_figures.h"
#include "client/python/native/door.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "siftd/client_options.h"

namespace siftd {

class StreamLink {
 public:
  struct Options {
    ClientOptions client;  // endpoints and keys
    Hello hello;  // what the rank says of itself: session's incarnation, run, job, decided keys
    std::uint32_t loader_count = 1;
    std::uint32_t batch_size = 1;
    std::uint32_t window = 2;
    std::uint32_t prefetch = 2;
    bool endless = false;  // an epoch is a number of steps: passes mix
    bool drop_last = false;
    std::size_t history_length = 0;
    std::vector<float> history;  // oldest first
  };

  explicit StreamLink(Options options);
  // In another process than the one that made it (after a fork) it ends nothing.
  ~StreamLink();
  StreamLink(const StreamLink&) = delete;
  StreamLink& operator=(const StreamLink&) = delete;

  // Rows of a state, which go first. REQUIRES: before Start
  Status Restore(Selected rows);
  // Resolves the endpoints and begins to connect.
  Status Start();
  // Says Goodbye (the run goes on, but for Finish), unless told not to, and ends the thread.
  void Stop(bool goodbye = true);

  // `step`: optimizer steps done; heartbeats and candidates carry it.
  Taken Take(std::uint64_t step);
  // Until there is an item to take.
  void Wait(Duration timeout);

  // What a state is made of, at one moment.
  struct Position {
    std::vector<Post> posts;               // that Take did not give yet
    std::vector<std::uint64_t> next_pass;  // by loader; a lower pass is decided whole
    std::vector<TrainBatch> untaken;       // oldest first
  };
  Position TakePosition();

  // Tells the loaders that the run is over, drops what comes, and serves them until they have heard
  // it, or for `linger`. False: more of it is of use; another call goes on.
  bool Finish(Duration linger);

  struct Figures {
    BatchFigures batches;
    std::size_t workers = 0;
    std::size_t connected = 0;
    std::size_t ready = 0;
    std::uint64_t duplicates = 0;
    std::string failure;      // why nothing more will happen with any worker
    std::string waiting_for;  // what the next batch is waited for; empty: nothing
  };
  Figures figures() const;
  std::vector<float> history() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
