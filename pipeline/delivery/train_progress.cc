// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/train_progress.h"

#include <algorithm>
#include <utility>

namespace siftd {

void TrainProgress::Trained(const std::vector<RowSpan>& spans) {
  for (const RowSpan& span : spans) {
    if (span.last) {
      trained_.Insert(span.key);
      if (half_ == span.key) half_.reset();
    } else {
      half_ = span.key;
    }
  }
  CloseTrained();
}

void TrainProgress::PassesEnded(std::vector<EpochEnd> passes, bool lockstep) {
  groups_.push_back({std::move(passes), lockstep});
  CloseTrained();
}

void TrainProgress::EpochOver() {
  if (groups_.empty()) return;
  Close(groups_.front());
  groups_.erase(groups_.begin());
}

void TrainProgress::CloseTrained() {
  const auto trained = [this](const EpochEnd& e) {
    return trained_.Complete(e.loader, e.pass, e.batches);
  };
  std::erase_if(groups_, [&](const Group& group) {
    if (group.lockstep || !std::all_of(group.passes.begin(), group.passes.end(), trained))
      return false;
    Close(group);
    return true;
  });
}

void TrainProgress::Close(const Group& group) {
  for (const EpochEnd& end : group.passes) trained_.Close(end.loader, end.pass);
}

DecidedSet TrainProgress::Decided() const {
  if (!half_) return trained_.Export();
  DecidedKeys with_half = trained_;
  with_half.Insert(*half_);
  return with_half.Export();
}

}  // namespace siftd
