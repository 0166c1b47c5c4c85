// SPDX-License-Identifier: Apache-2.0
// EpochBook: which passes have ended at a trainer rank (design rule 8). In lockstep an epoch is
// complete when every loader has ended its pass and all keys are decided; otherwise each pass by
// itself. Value-like; one thread only. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/data/messages.h"
#include "pipeline/delivery/decided_keys.h"

namespace siftd {

class EpochBook {
 public:
  // The loaders that feed this rank: those with index % world == rank.
  EpochBook(std::uint32_t loader_count, std::uint32_t rank, std::uint32_t world, bool lockstep);

  void Record(const EpochEnd& end);
  // Passes that are complete now, together; each is given once. An epoch number that the loaders do
  // not agree on is the largest of theirs.
  struct Completed {
    std::uint32_t epoch = 0;
    std::vector<EpochEnd> passes;
  };
  std::optional<Completed> TakeCompleted(const DecidedKeys& decided);

  bool lockstep() const { return lockstep_; }
  // Every loader's final pass is complete.
  bool AllFinal() const { return final_.size() == loaders_.size(); }
  // "loader 1 has not ended its pass; loader 2: 5 of 8 batches of pass 3 decided"; at most a few
  // loaders.
  std::string Missing(const DecidedKeys& decided) const;

 private:
  bool lockstep_;
  std::vector<std::uint32_t> loaders_;
  std::map<std::pair<std::uint32_t, std::uint64_t>, EpochEnd> ends_;  // (loader, pass)
  std::set<std::uint32_t> final_;
};

}  // namespace siftd
