// SPDX-License-Identifier: Apache-2.0
#include "pipeline/graph/batcher.h"

#include <algorithm>
#include <utility>

namespace siftd {
namespace {

std::int64_t Rows(const ScoredBatch& batch) { return CountToScore(batch.candidates); }

bool SameInputs(const Candidates& a, const Candidates& b) {
  return a.run == b.run && a.tensors.size() == b.tensors.size() &&
         std::equal(a.tensors.begin(), a.tensors.end(), b.tensors.begin(),
                    [](const Tensor& x, const Tensor& y) {
                      return x.name == y.name && x.dtype == y.dtype &&
                             x.shape.size() == y.shape.size() &&
                             std::equal(x.shape.begin() + 1, x.shape.end(), y.shape.begin() + 1);
                    });
}

}  // namespace

bool Batcher::Fits(const ScoredBatch& batch) const {
  return open_->rows + Rows(batch) <= options_.max_rows &&
         SameInputs(open_->batches.front()->candidates, batch.candidates);
}

void Batcher::Add(ScoredBatchPtr batch, MonoTime now, std::vector<ScoreGroupPtr>* ready) {
  // A forward of several batches may differ in the last bits from one of this batch alone.
  const bool alone = batch->candidates.suspect || batch->candidates.required_version != 0;
  if (open_ != nullptr && (alone || !Fits(*batch))) Flush(ready);
  if (open_ == nullptr) {
    open_ = make_();
    opened_ = now;
  }
  open_->rows += Rows(*batch);
  open_->batches.push_back(std::move(batch));
  if (alone || open_->rows >= options_.max_rows) Flush(ready);
}

void Batcher::Tick(MonoTime now, std::vector<ScoreGroupPtr>* ready) {
  if (open_ != nullptr && now - opened_ >= options_.max_age) Flush(ready);
}

void Batcher::Flush(std::vector<ScoreGroupPtr>* ready) {
  if (open_ != nullptr) ready->push_back(std::exchange(open_, nullptr));
}

}  // namespace siftd
