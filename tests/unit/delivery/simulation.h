// SPDX-License-Identifier: Apache-2.0
// A whole job in one thread: real worker, loader, trainer and publisher cores over links that deliver in any order (each
// link in its own), are cut, and lose processes at their ends. Checks the design's invariants as it goes.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "pipeline/delivery/assembler.h"
#include "pipeline/delivery/loader_core.h"
#include "pipeline/delivery/publisher_core.h"
#include "pipeline/delivery/train_progress.h"
#include "pipeline/delivery/trainer_core.h"
#include "pipeline/delivery/worker_core.h"

namespace siftd {

struct SimulationOptions {
  std::uint64_t seed = 0;
  std::uint32_t workers = 2;
  std::uint32_t loaders = 2;
  std::uint32_t world = 1;
  std::uint64_t passes = 2;   // world 1
  std::uint64_t batches = 6;  // of a pass
  std::uint32_t rows = 5;     // of a batch
  std::uint32_t batch_size = 4;
  std::uint32_t window = 2;
  std::uint64_t steps = 8;    // world > 1: full batches of each rank
  int faults = 12;
  bool poison = false;        // one batch kills the worker that scores it
};

class Simulation {
 public:
  explicit Simulation(const SimulationOptions& options);
  ~Simulation();

  // Runs until the job is done. Empty, or the invariant that was broken.
  std::string Run();

  std::uint64_t events() const { return events_; }
  std::uint64_t duplicates() const { return duplicates_; }
  int faults_made() const { return faults_made_; }

 private:
  struct Loader;
  struct Trainer;
  struct Publisher;
  struct Worker;
  struct Link;
  enum class Kind { kLoader, kTrainer, kPublisher };

  void StartLoader(std::uint32_t i);
  void StartRun();
  void StartWorker(std::uint32_t w);
  void DropLink(Link& link);
  void Deliver(Link& link, bool to_worker);
  void ActClient(Kind kind, std::uint32_t i);
  void ActWorker(std::uint32_t w);
  void Feed(std::uint32_t i);
  void Score(std::uint32_t w);
  void Train(std::uint32_t rank);
  void Accepted(std::uint32_t rank, const Selected& rows);
  void MakeFault();
  void Step();
  bool Done() const;
  void Fail(const std::string& what);
  void CheckBounds();
  void CheckEnd();

  Link& LinkOf(Kind kind, std::uint32_t i, std::uint32_t w);
  std::uint32_t Clients() const;

  const SimulationOptions options_;
  std::mt19937_64 random_;
  MonoTime now_{};
  std::uint64_t clock_ = 1000;  // incarnations and runs
  std::uint64_t run_ = 0;
  PeerHandle next_handle_ = 1;
  std::vector<Worker> workers_;
  std::vector<Loader> loaders_;
  std::vector<Trainer> trainers_;
  std::unique_ptr<Publisher> publisher_;
  std::vector<Link> links_;
  std::string failure_;
  std::uint64_t events_ = 0;
  std::uint64_t duplicates_ = 0;
  int faults_made_ = 0;
  int faults_left_ = 0;
  bool healing_ = false;
};

}  // namespace siftd
