// SPDX-License-Identifier: Apache-2.0
#include "client/python/native/batch_maker.h"

#include <utility>

namespace siftd {

BatchMaker::BatchMaker(const Options& options)
    : options_(options), history_(options.history_length) {
  history_.Add(options.history);
  NewAssembler();
}

void BatchMaker::NewAssembler() {
  assembler_ = std::make_unique<Assembler>(AssemblerOptions{options_.batch_size, options_.carry});
}

void BatchMaker::Admit(Candidate candidate) {
  figures_.candidates += candidate.sample_id.size();
  open_.emplace(candidate.key, std::move(candidate));
}

Status BatchMaker::Restore(Selected rows) { return assembler_->Add(std::move(rows)); }

Status BatchMaker::Decide(const BatchKey& key, Decision decision, double seconds) {
  auto found = open_.extract(key);
  if (found.empty()) return OkStatus();
  Candidate candidate = std::move(found.mapped());
  const auto rows = static_cast<std::uint32_t>(candidate.sample_id.size());
  ++figures_.verdicts;
  figures_.verdict_seconds_sum += seconds;
  history_.Add(decision.score);
  if (decision.outcome == Outcome::kRejected) {
    ++figures_.rejected_batches;
    if (rejection_.empty()) rejection_ = decision.text;
    decision = UnsiftedDecision(rows);
  }
  return Take(std::move(candidate), std::move(decision));
}

std::optional<BatchKey> BatchMaker::PassOldest(Status* status) {
  if (open_.empty()) return std::nullopt;
  auto oldest = open_.extract(open_.begin());
  const BatchKey key = oldest.key();
  const auto rows = static_cast<std::uint32_t>(oldest.mapped().sample_id.size());
  *status = Take(std::move(oldest.mapped()), UnsiftedDecision(rows));
  return key;
}

Status BatchMaker::Take(Candidate candidate, Decision d) {
  const std::size_t rows = candidate.sample_id.size();
  d.rows = static_cast<std::uint32_t>(rows);
  figures_.Count(d);
  posts_.push_back({candidate.key, static_cast<std::uint32_t>(d.kept.size())});
  CompleteForRows(d);
  Selected selected;
  selected.key = candidate.key;
  selected.epoch = candidate.epoch;
  selected.sample_id.reserve(d.kept.size());
  for (const std::uint32_t row : d.kept) {
    if (row >= rows)
      return InvalidArgument("a kept row's index is not below " + std::to_string(rows));
    selected.sample_id.push_back(candidate.sample_id[row]);
  }
  selected.decision = std::move(d);
  selected.tensors = std::move(candidate.fields);
  return assembler_->AddKeptOf(std::move(selected));
}

void BatchMaker::End(std::uint64_t pass, bool flush) {
  ended_ = pass;
  flush_ = flush;
}

void BatchMaker::Cancel() {
  for (const auto& [key, candidate] : open_) figures_.cancelled += candidate.sample_id.size();
  figures_.cancelled += assembler_->buffered_rows();
  open_.clear();
  posts_.clear();
  ended_.reset();
  NewAssembler();
}

std::optional<BatchMaker::Item> BatchMaker::Take() {
  if (ended_ && open_.empty()) {
    assembler_->EndEpoch(static_cast<std::uint32_t>(*ended_), flush_);
    ended_.reset();
  }
  return assembler_->Take();
}

std::vector<Post> BatchMaker::TakePosts() { return std::exchange(posts_, {}); }

}  // namespace siftd
