// SPDX-License-Identifier: Apache-2.0
// A whole job in one thread: real worker, loader, trainer and publisher cores over links that
// deliver in order each but in any order among them, are cut, and lose processes at their ends.
// Checks the design's invariants as it goes.
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

struct JobOptions {
  std::uint64_t seed = 0;
  std::uint32_t workers = 2;
  std::uint32_t loaders = 2;
  std::uint32_t world = 1;
  std::uint64_t passes = 2;   // world 1
  std::uint64_t batches = 6;  // of a pass
  std::uint32_t rows = 5;     // of a batch
  std::uint32_t batch_size = 4;
  bool drop_last = false;  // world 1: an epoch's remainder goes into the next one
  std::uint32_t window = 2;
  std::uint64_t steps = 8;  // world > 1: full batches of each rank
  int faults = 12;
  bool restarts = true;  // of trainers, from a checkpoint, among the faults
  bool poison = false;   // one batch kills the worker that scores it
};

class JobSimulation {
 public:
  explicit JobSimulation(const JobOptions& options);
  ~JobSimulation();

  // Until the job is done. Empty, or the invariant that was broken.
  std::string Run();

  std::uint64_t events() const { return events_; }
  std::uint64_t duplicates() const { return duplicates_; }
  const std::map<std::string, int>& faults_made() const { return faults_made_; }

 private:
  using Rows = std::vector<std::uint64_t>;  // sample ids

  // What a rank's checkpoint holds, and what the job's outcome was up to then.
  struct Outcome {
    DecidedSet decided;
    std::optional<Selected> half;
    std::vector<Selected> carried;
    std::map<BatchKey, Rows> decisions;  // kept rows of each key whose decision counts
    std::map<std::uint64_t, int> trained;
    std::uint64_t steps = 0;
    std::uint32_t epochs = 0;
  };
  struct Link {
    PeerHandle handle = 0;  // 0: nothing gets through
    std::deque<Message> to_worker;
    std::deque<Message> to_client;
  };
  struct Worker {
    std::uint64_t incarnation = 0;
    std::unique_ptr<WorkerCore> core;
    std::vector<ScoredBatchPtr> graph;
  };
  struct Loader {
    std::unique_ptr<LoaderCore> core;
    std::vector<Link> links;
    bool placed = false;  // has a position
    std::uint64_t run = 0;
    std::uint64_t pass = 0;
    std::uint64_t seq = 0;
    bool repeat = false;
    bool ended = false;
    bool left = false;
  };
  struct Trainer {
    std::unique_ptr<TrainerCore> core;
    std::vector<Link> links;
    std::unique_ptr<Assembler> assembler;
    TrainProgress progress;
    Outcome now;
    Outcome checkpoint;
    bool finished = false;
  };
  struct Publisher {
    std::unique_ptr<PublisherCore> core;
    std::vector<Link> links;
  };

  void StartWorker(std::uint32_t w);
  void StartLoader(std::uint32_t i);
  void StartRun();
  void StartRank(std::uint32_t rank);

  template <typename Core>
  void Apply(Core& core, std::vector<Link>& links);
  void Act(Loader& loader);
  void Act(Trainer& trainer);
  void Act(Publisher& publisher);
  void ActWorker(std::uint32_t w);
  void AnswerModel(std::uint32_t w, const Message& work);
  Link* LinkTo(std::uint32_t w, PeerHandle handle);

  bool DeliverOne();
  bool Feed(Loader& loader, std::uint32_t index);
  bool ScoreOne(std::uint32_t w);
  bool TrainOne(std::uint32_t rank);
  void Accept(Trainer& trainer, Selected rows);
  void Tick();
  void MakeFault();
  void Crash(std::uint32_t w);
  void Cut(Link& link, std::uint32_t w);
  void Checkpoint();
  bool Done() const;
  void CheckWorker(std::uint32_t w);
  void CheckEnd();
  void Fail(const std::string& what);
  std::string WhereItStands() const;

  std::vector<std::vector<Link>*> AllLinks();
  std::uint64_t Draw(std::uint64_t n) { return random_() % n; }
  bool lockstep() const { return options_.world == 1; }

  const JobOptions options_;
  std::mt19937_64 random_;
  MonoTime now_{};
  std::uint64_t clock_ = 1000;  // incarnations and runs
  std::uint64_t run_ = 0;
  PeerHandle next_handle_ = 1;
  std::vector<Worker> workers_;
  std::vector<Loader> loaders_;
  std::vector<Trainer> trainers_;
  Publisher publisher_;
  BatchKey poison_;
  std::string failure_;
  std::uint64_t events_ = 0;
  std::uint64_t duplicates_ = 0;
  std::map<std::string, int> faults_made_;
  int faults_left_ = 0;
};

}  // namespace siftd
