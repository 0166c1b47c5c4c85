// SPDX-License-Identifier: Apache-2.0
// TrainProgress: which keys of a rank are trained, for a checkpoint. Rows are taken first in first
// out, so at most one key is half trained. Value-like; one thread only. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "pipeline/data/messages.h"
#include "pipeline/delivery/decided_keys.h"
#include "pipeline/delivery/train_batch.h"

namespace siftd {

class TrainProgress {
 public:
  TrainProgress() = default;
  // Continues from a state: what Decided() and half() gave.
  TrainProgress(const DecidedSet& decided, const std::optional<BatchKey>& half)
      : trained_(decided), half_(half) {}

  // A key without kept rows: nothing of it will be trained.
  void Empty(const BatchKey& key) { trained_.Insert(key); }
  // The batch was trained, or is in hand and will be.
  void Trained(const std::vector<RowSpan>& spans);
  // Passes whose keys are all decided. In lockstep they close together, once EpochOver was said: so
  // a state taken at an epoch's last batch still has the epoch's end to come, and rows that
  // drop_last carries over are the state's to save. Else they close once all their keys are
  // trained.
  void PassesEnded(std::vector<EpochEnd> passes, bool lockstep);
  // Lockstep: the oldest epoch that ended was handed out to its end.
  void EpochOver();

  // For a state: these keys are not to come again; of `half`, and of keys of closed passes, the
  // untrained rows are to be saved.
  DecidedSet Decided() const;
  const std::optional<BatchKey>& half() const { return half_; }

 private:
  struct Group {
    std::vector<EpochEnd> passes;
    bool lockstep = false;
  };
  void CloseTrained();
  void Close(const Group& group);

  DecidedKeys trained_;
  std::optional<BatchKey> half_;
  std::vector<Group> groups_;
};

}  // namespace siftd
