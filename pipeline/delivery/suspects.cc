// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/suspects.h"

#include <utility>

namespace siftd {
namespace {

constexpr int kDeaths = 2;

}  // namespace

Suspects::Care Suspects::CareFor(const Entry& entry) {
  if (entry.relay_deaths >= kDeaths) return Care::kRejected;
  if (entry.alone_deaths >= kDeaths) return Care::kUnscored;
  return entry.suspect ? Care::kAlone : Care::kNone;
}

Suspects::Care Suspects::CareFor(const BatchKey& key) const {
  const auto it = entries_.find(key);
  return it == entries_.end() ? Care::kNone : CareFor(it->second);
}

void Suspects::Sent(std::size_t w, const BatchKey& key) {
  Entry& entry = entries_[key];
  entry.sent[w] = CareFor(entry);
  workers_[w].sent.insert(key);
}

void Suspects::Returned(std::size_t w, const BatchKey& key) {
  const auto it = entries_.find(key);
  if (it == entries_.end() || it->second.sent.erase(w) == 0) return;
  workers_[w].sent.erase(key);
  if (it->second.sent.empty() && !it->second.suspect) entries_.erase(it);
}

void Suspects::Forget(const BatchKey& key) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return;
  for (const auto& [w, care] : it->second.sent) workers_[w].sent.erase(key);
  if (it->second.suspect) --suspects_;
  entries_.erase(it);
}

void Suspects::Clear() {
  entries_.clear();
  suspects_ = 0;
  for (auto& [w, worker] : workers_) worker.sent.clear();
}

void Suspects::Drained(std::size_t w) { workers_[w].drained = true; }

std::optional<Suspects::Death> Suspects::Welcomed(std::size_t w, std::uint64_t incarnation) {
  Worker& worker = workers_[w];
  const std::uint64_t before = std::exchange(worker.incarnation, incarnation);
  if (before == incarnation) return std::nullopt;
  const bool died = before != 0 && !std::exchange(worker.drained, false);
  Death death;
  for (const BatchKey& key : std::exchange(worker.sent, {})) {
    Entry& entry = entries_.at(key);
    const Care care = entry.sent.at(w);
    entry.sent.erase(w);
    if (!died) {
      if (entry.sent.empty() && !entry.suspect) entries_.erase(key);
      continue;
    }
    if (!std::exchange(entry.suspect, true)) ++suspects_;
    if (care == Care::kAlone && ++entry.alone_deaths == kDeaths) {
      death.log.push_back(
          "batch " + ToString(key) +
          " is quarantined: a worker died twice scoring it alone; it is sent unscored");
    }
    if (care == Care::kUnscored && ++entry.relay_deaths == kDeaths) {
      death.log.push_back("batch " + ToString(key) +
                          " is rejected: a worker died twice relaying it");
    }
    death.held.push_back(key);
  }
  if (!died) return std::nullopt;
  return death;
}

}  // namespace siftd
