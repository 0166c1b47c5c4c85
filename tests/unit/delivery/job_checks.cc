// SPDX-License-Identifier: Apache-2.0
// What must hold in a simulated job: one decision takes effect for each key, its rows are trained
// once, memory is bounded, epochs are exact.
#include <algorithm>
#include <cstring>
#include <set>

#include "tests/unit/delivery/job_simulation.h"

namespace siftd {

void JobSimulation::Fail(const std::string& what) {
  if (failure_.empty()) failure_ = "seed " + std::to_string(options_.seed) + ": " + what;
}

void JobSimulation::Accept(Trainer& t, Selected rows) {
  if (t.now.decisions.contains(rows.key))
    Fail("two decisions took effect for " + ToString(rows.key));
  if (rows.key.loader % options_.world != static_cast<std::uint32_t>(&t - trainers_.data()))
    Fail("rows of another rank");
  t.now.decisions[rows.key] = rows.sample_id;
  if (rows.sample_id.empty()) t.progress.Empty(rows.key);
  if (const Status s = t.assembler->Add(std::move(rows)); !s.ok())
    Fail("rows were refused: " + s.message());
  const std::size_t bound =
      options_.batch_size - 1 + (options_.workers * options_.window + 1) * options_.rows;
  if (t.assembler->buffered_rows() > bound) {
    Fail("a rank holds " + std::to_string(t.assembler->buffered_rows()) + " rows; bound " +
         std::to_string(bound));
  }
}

bool JobSimulation::TrainOne(std::uint32_t rank) {
  Trainer& t = trainers_[rank];
  if (t.finished) return false;
  auto item = t.assembler->Take();
  if (item && item->batch) {
    const TrainBatch& batch = *item->batch;
    for (std::size_t i = 0; i < batch.rows(); ++i) {
      std::uint64_t x;
      std::memcpy(&x, batch.tensors[0].bytes.data() + i * sizeof(x), sizeof(x));
      if (x != ~batch.sample_id[i]) Fail("a row's bytes are not its own");
      if (++t.now.trained[batch.sample_id[i]] > 1)
        Fail("row " + std::to_string(batch.sample_id[i]) + " trained twice");
    }
    if ((!lockstep() || options_.drop_last) && batch.rows() != options_.batch_size)
      Fail("a short batch");
    for (const RowSpan& span : batch.spans) {
      const bool carried = options_.drop_last && span.key.pass < t.now.epochs;
      if (lockstep() && span.key.pass != t.now.epochs && !carried) Fail("a row of another epoch");
    }
    t.progress.Trained(batch.spans);
    ++t.now.steps;
  } else if (item) {
    // Loaders that start with nothing left to do end one more, empty pass.
    const bool extra = item->epoch >= options_.passes && t.now.epochs == options_.passes;
    if (!extra && item->epoch != t.now.epochs++) Fail("an epoch out of order");
    t.progress.EpochOver();
  } else if (t.core->AllFinal()) {
    t.finished = true;  // and nothing is left to be taken
  }
  if (!lockstep() && t.now.steps == options_.steps) t.finished = true;
  if (!item && !t.finished) return false;
  t.core->OnConsumed(t.assembler->TakeEmptied(), t.assembler->buffered_rows(), now_);
  if (t.finished) t.core->Finish(now_);
  Act(t);
  duplicates_ += t.finished ? t.core->duplicates() : 0;
  return true;
}

void JobSimulation::Checkpoint() {
  for (Trainer& t : trainers_) {
    t.checkpoint = t.now;
    t.checkpoint.decided = t.progress.Decided();
    const DecidedKeys decided(t.checkpoint.decided);
    std::erase_if(t.checkpoint.decisions,
                  [&](const auto& d) { return !decided.Contains(d.first); });
    t.checkpoint.half.reset();
    t.checkpoint.carried.clear();
    if (t.progress.half()) t.checkpoint.half = t.assembler->RowsOf(*t.progress.half());
    std::set<BatchKey> untaken;
    for (const TrainBatch& batch : t.assembler->Untaken()) {
      for (const RowSpan& span : batch.spans) {
        if (span.key != t.progress.half() && decided.Closed(span.key.loader, span.key.pass) &&
            untaken.insert(span.key).second)
          t.checkpoint.carried.push_back(t.assembler->RowsOf(span.key));
      }
    }
  }
}

void JobSimulation::CheckWorker(std::uint32_t w) {
  const StatusReply status = workers_[w].core->Snapshot(now_);
  if (status.held_bytes > status.budget_bytes) {
    Fail("worker " + std::to_string(w) + " holds " + std::to_string(status.held_bytes) +
         " bytes of " + std::to_string(status.budget_bytes));
  }
}

void JobSimulation::CheckEnd() {
  for (std::uint32_t rank = 0; rank < options_.world; ++rank) {
    const Trainer& t = trainers_[rank];
    if (!lockstep()) {
      if (t.now.steps != options_.steps) Fail("steps are not steps_per_epoch");
      continue;
    }
    if (t.now.epochs != options_.passes)
      Fail(std::to_string(t.now.epochs) + " epochs of " + std::to_string(options_.passes));
    if (t.now.decisions.size() != options_.loaders * options_.passes * options_.batches)
      Fail("a key has no decision");
    std::size_t rows = 0;
    std::size_t left_over = 0;
    for (const auto& [key, kept] : t.now.decisions) {
      rows += kept.size();
      for (const std::uint64_t id : kept) {
        const auto it = t.now.trained.find(id);
        if (it == t.now.trained.end() && options_.drop_last && ++left_over < options_.batch_size)
          continue;
        if (it == t.now.trained.end() || it->second != 1)
          Fail("row " + std::to_string(id) + " was not trained");
      }
    }
    if (options_.poison && t.now.decisions.at(poison_).size() != options_.rows)
      Fail("the poisoned batch was sifted");
    if (rows != t.now.trained.size() + left_over) Fail("a row was trained that no decision kept");
  }
}

std::string JobSimulation::WhereItStands() const {
  std::string text;
  for (const Loader& l : loaders_)
    text += "\n  loader: " + (l.left ? "left" : l.core->WaitingFor(now_));
  for (const Trainer& t : trainers_)
    text += "\n  trainer: " + (t.finished ? "finished" : t.core->WaitingFor(now_));
  text += "\n  publisher: " + publisher_.core->WaitingFor(now_);
  return text;
}

}  // namespace siftd
