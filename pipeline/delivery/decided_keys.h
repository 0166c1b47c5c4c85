// SPDX-License-Identifier: Apache-2.0
// DecidedKeys: a set of batch keys as intervals of seq per loader and pass, for a whole run. A
// closed pass holds all its keys and costs nothing. Value; one thread at a time. Operations cost
// O(log n) in the intervals of the pass.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "pipeline/data/batch_key.h"
#include "pipeline/data/messages.h"

namespace siftd {

class DecidedKeys {
 public:
  DecidedKeys() = default;
  explicit DecidedKeys(const DecidedSet& set) { Merge(set); }

  // False: it was in already.
  bool Insert(const BatchKey& key);
  bool Contains(const BatchKey& key) const;
  // All of seq 0 .. batches - 1 are in.
  bool Complete(std::uint32_t loader, std::uint64_t pass, std::uint64_t batches) const;
  // Keys of the pass that are in, below `batches`; for progress texts.
  std::uint64_t CountBelow(std::uint32_t loader, std::uint64_t pass, std::uint64_t batches) const;
  // Every key of the pass is in. next_pass moves once all lower passes are closed as well.
  void Close(std::uint32_t loader, std::uint64_t pass);
  bool Closed(std::uint32_t loader, std::uint64_t pass) const;
  // Passes below it are closed; 0 for an unknown loader.
  std::uint64_t next_pass(std::uint32_t loader) const;

  // Union. Empty and inverted intervals are ignored.
  void Merge(const DecidedSet& set);
  DecidedSet Export() const;
  DecidedSet Export(std::uint32_t loader) const;

  // Keys that are known one by one: those inside a merged next_pass were never seen.
  std::uint64_t count() const { return count_; }

 private:
  using Intervals = std::map<std::uint64_t, std::uint64_t>;  // begin -> end, disjoint, not adjacent
  struct Pass {
    Intervals intervals;
    bool closed = false;
  };
  struct Loader {
    std::uint64_t next_pass = 0;
    std::map<std::uint64_t, Pass> passes;  // from next_pass on
  };

  // Keys that this added.
  static std::uint64_t AddRange(Intervals& intervals, std::uint64_t begin, std::uint64_t end);
  static void Append(std::uint32_t index, const Loader& loader, DecidedSet* set);
  const Pass* Find(std::uint32_t loader, std::uint64_t pass) const;

  std::map<std::uint32_t, Loader> loaders_;
  std::uint64_t count_ = 0;
};

}  // namespace siftd
