// SPDX-License-Identifier: Apache-2.0
// BatchMaker: a drop-in's candidates, decided, as batches of the trainer's size. It keeps the rows
// of each candidate until its verdict; kept rows are copied once, into the batch they become part
// of. One thread only. Pure: no clock, no socket.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/python/native/batch_figures.h"
#include "client/python/native/door.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "pipeline/delivery/assembler.h"
#include "siftd/recent_scores.h"

namespace siftd {

class BatchMaker {
 public:
  struct Options {
    std::uint32_t batch_size = 1;
    bool carry = false;  // a pass' remainder goes into the next one
    std::size_t history_length = 0;
    std::vector<float> history;  // oldest first
  };
  // A candidate batch: all its fields, each [n, ...].
  struct Candidate {
    BatchKey key;
    std::uint32_t epoch = 0;
    std::vector<std::uint64_t> sample_id;  // [n]
    std::vector<Tensor> fields;
  };
  // A batch or, without one, the end of pass `epoch`.
  using Item = Assembler::Item;

  explicit BatchMaker(const Options& options);

  void Admit(Candidate candidate);
  // Rows of a state, which go first.
  Status Restore(Selected rows);
  // The verdict on an admitted candidate, which came after `seconds`. A key that is not there is
  // ignored. Error: its rows cannot stand in one batch with those before.
  Status Decide(const BatchKey& key, Decision decision, double seconds);
  // The undecided candidate with the lowest key: all its rows pass unsifted. nullopt: there is
  // none.
  std::optional<BatchKey> PassOldest(Status* status);
  // No candidate of the pass comes any more. `flush`: its remainder is not carried over.
  void End(std::uint64_t pass, bool flush);
  // Forgets everything that was not taken.
  void Cancel();

  // Too few rows for a batch: candidates are wanted.
  bool hungry() const { return assembler_->buffered_rows() < options_.batch_size; }
  std::size_t undecided() const { return open_.size(); }
  // The next batch, or the end of the pass once all of it is decided and taken.
  std::optional<Item> Take();
  std::vector<Post> TakePosts();
  // Rows that were not taken, oldest first; they share memory with batches to come.
  std::vector<TrainBatch> Untaken() const { return assembler_->Untaken(); }
  // The last finite scores, oldest first.
  std::vector<float> history() const { return history_.Sample(); }
  // Rows that are forgotten elsewhere, too.
  void CountCancelled(std::size_t rows) { figures_.cancelled += rows; }
  const BatchFigures& figures() const { return figures_; }
  // Of the first batch that a worker could not decide.
  const std::string& rejection() const { return rejection_; }

 private:
  Status Take(Candidate candidate, Decision decision);
  void NewAssembler();

  const Options options_;
  std::unique_ptr<Assembler> assembler_;
  std::map<BatchKey, Candidate> open_;
  std::optional<std::uint64_t> ended_;  // pass whose end is not handed on yet
  bool flush_ = false;
  std::vector<Post> posts_;
  RecentScores history_;
  BatchFigures figures_;
  std::string rejection_;
};

}  // namespace siftd
