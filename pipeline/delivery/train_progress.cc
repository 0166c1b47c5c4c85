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
  CloseGroups();
}

void TrainProgress::PassesEnded(std::vector<EpochEnd> passes, bool lockstep) {
  groups_.push_back({std::move(passes), lockstep});
  CloseGroups();
}

void TrainProgress::EpochOver() {
  if (!groups_.empty()) groups_.front().over = true;
  CloseGroups();
}

void TrainProgress::CloseGroups() {
  std::erase_if(groups_, [this](const Group& group) {
    const auto trained = [this](const EpochEnd& e) {
      return trained_.Complete(e.loader, e.pass, e.batches);
    };
    const bool complete = group.lockstep
                              ? group.over
                              : std::all_of(group.passes.begin(), group.passes.end(), trained);
    if (!complete) return false;
    for (const EpochEnd& end : group.passes) trained_.Close(end.loader, end.pass);
    return true;
  });
}

DecidedSet TrainProgress::Decided() const {
  if (!half_) return trained_.Export();
  DecidedKeys with_half = trained_;
  with_half.Insert(*half_);
  return with_half.Export();
}

}  // namespace siftd
