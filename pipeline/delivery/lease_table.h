// SPDX-License-Identifier: Apache-2.0
// LeaseTable: the candidate batches that a loader still answers for (design rule 2), oldest first.
// A lease is waiting to be sent or out at one worker. Value-like; one thread only. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/data/messages.h"

namespace siftd {

class LeaseTable {
 public:
  struct Lease {
    Candidates batch;
    std::uint64_t age = 0;       // order of Add
    std::uint32_t attempts = 0;  // times sent
    std::optional<std::size_t> worker;
    MonoTime added{};
    MonoTime sent{};
  };

  // False: the key is leased already.
  bool Add(Candidates batch, MonoTime now);
  // False: no such lease.
  bool Settle(const BatchKey& key);
  const Lease* Find(const BatchKey& key) const;
  // The oldest waiting lease that `wanted` takes; null: none.
  const Lease* OldestWaiting(const std::function<bool(const BatchKey&)>& wanted) const;
  // Marks it as out at `worker`. REQUIRES: it is waiting.
  const Lease& Send(const BatchKey& key, std::size_t worker, MonoTime now);
  // Waiting again; false: it was not out at `worker`.
  bool Return(const BatchKey& key, std::size_t worker);
  // All that are out at `worker` wait again; how many.
  std::size_t ReturnAll(std::size_t worker);
  // Those sent before `limit`, with their workers.
  std::vector<std::pair<BatchKey, std::size_t>> SentBefore(MonoTime limit) const;
  // Takes out the leases of a pass, oldest first.
  std::vector<Lease> DropPass(std::uint64_t pass);
  void Clear();

  std::size_t size() const { return leases_.size(); }
  std::size_t waiting() const { return waiting_.size(); }
  std::size_t out(std::size_t worker) const {
    return worker < out_.size() ? out_[worker].size() : 0;
  }
  // When the oldest lease was added.
  std::optional<MonoTime> oldest() const;

 private:
  using Aged = std::pair<std::uint64_t, BatchKey>;
  std::set<Aged>& Out(std::size_t worker);
  void Release(Lease& lease);

  std::unordered_map<BatchKey, Lease> leases_;
  std::set<Aged> by_age_;
  std::set<Aged> waiting_;
  std::vector<std::set<Aged>> out_;  // by worker
  std::uint64_t next_age_ = 0;
};

}  // namespace siftd
