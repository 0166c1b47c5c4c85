// SPDX-License-Identifier: Apache-2.0
// Suspects: which candidate batches may have killed a worker (design rule 11). A worker that comes
// back as a new incarnation without having drained has died; what it may have held then is suspect.
// One thread only. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "pipeline/data/batch_key.h"

namespace siftd {

class Suspects {
 public:
  // How a batch is to be sent.
  enum class Care {
    kNone,      // like any other
    kAlone,     // scored with nothing else in the worker
    kUnscored,  // two deaths while alone: relayed without scoring
    kRejected,  // relaying killed twice too: not to be relayed
  };

  Care CareFor(const BatchKey& key) const;
  // Number of keys that need care.
  std::size_t size() const { return suspects_; }

  void Sent(std::size_t w, const BatchKey& key);
  // The worker gave it back, without harm.
  void Returned(std::size_t w, const BatchKey& key);
  // Settled, or the pass is given up: forget it.
  void Forget(const BatchKey& key);
  void Clear();

  // The worker drains: its end will be no death.
  void Drained(std::size_t w);
  struct Death {
    std::vector<BatchKey> held;
    std::vector<std::string> log;
  };
  // A Welcome names the worker's incarnation: what died with the one before, if it did.
  std::optional<Death> Welcomed(std::size_t w, std::uint64_t incarnation);

 private:
  struct Entry {
    std::map<std::size_t, Care> sent;  // worker -> how; since its incarnation began
    bool suspect = false;
    int alone_deaths = 0;
    int relay_deaths = 0;
  };
  struct Worker {
    std::uint64_t incarnation = 0;
    bool drained = false;
    std::set<BatchKey> sent;
  };

  static Care CareFor(const Entry& entry);

  std::map<BatchKey, Entry> entries_;
  std::map<std::size_t, Worker> workers_;
  std::size_t suspects_ = 0;
};

}  // namespace siftd
