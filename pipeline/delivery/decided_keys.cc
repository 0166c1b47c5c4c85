// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/decided_keys.h"

#include <algorithm>
#include <iterator>

namespace siftd {

std::uint64_t DecidedKeys::AddRange(Intervals& intervals, std::uint64_t begin, std::uint64_t end) {
  std::uint64_t added = end - begin;
  auto it = intervals.upper_bound(begin);
  if (it != intervals.begin() && std::prev(it)->second >= begin) --it;
  while (it != intervals.end() && it->first <= end) {
    const std::uint64_t common_begin = std::max(begin, it->first);
    const std::uint64_t common_end = std::min(end, it->second);
    if (common_end > common_begin) added -= std::min(added, common_end - common_begin);
    begin = std::min(begin, it->first);
    end = std::max(end, it->second);
    it = intervals.erase(it);
  }
  intervals.emplace_hint(it, begin, end);
  return added;
}

const DecidedKeys::Pass* DecidedKeys::Find(std::uint32_t loader, std::uint64_t pass) const {
  const auto l = loaders_.find(loader);
  if (l == loaders_.end()) return nullptr;
  const auto p = l->second.passes.find(pass);
  return p == l->second.passes.end() ? nullptr : &p->second;
}

bool DecidedKeys::Insert(const BatchKey& key) {
  if (Contains(key)) return false;
  // The one seq that has no successor is kept as nothing; no loader gets there.
  if (key.seq + 1 == 0) return false;
  count_ += AddRange(loaders_[key.loader].passes[key.pass].intervals, key.seq, key.seq + 1);
  return true;
}

bool DecidedKeys::Contains(const BatchKey& key) const {
  if (key.pass < next_pass(key.loader)) return true;
  const Pass* pass = Find(key.loader, key.pass);
  if (pass == nullptr) return false;
  if (pass->closed) return true;
  const auto it = pass->intervals.upper_bound(key.seq);
  return it != pass->intervals.begin() && std::prev(it)->second > key.seq;
}

bool DecidedKeys::Complete(std::uint32_t loader, std::uint64_t pass, std::uint64_t batches) const {
  if (batches == 0 || Closed(loader, pass)) return true;
  const Pass* p = Find(loader, pass);
  if (p == nullptr || p->intervals.empty()) return false;
  const auto& [begin, end] = *p->intervals.begin();
  return begin == 0 && end >= batches;
}

std::uint64_t DecidedKeys::CountBelow(std::uint32_t loader, std::uint64_t pass,
                                      std::uint64_t batches) const {
  if (Closed(loader, pass)) return batches;
  const Pass* p = Find(loader, pass);
  std::uint64_t n = 0;
  if (p == nullptr) return n;
  for (const auto& [begin, end] : p->intervals) {
    if (begin >= batches) break;
    n += std::min(end, batches) - begin;
  }
  return n;
}

void DecidedKeys::Close(std::uint32_t loader, std::uint64_t pass) {
  Loader& l = loaders_[loader];
  if (pass < l.next_pass) return;
  l.passes[pass].closed = true;
  auto it = l.passes.begin();
  while (it != l.passes.end() && it->first == l.next_pass && it->second.closed) {
    it = l.passes.erase(it);
    ++l.next_pass;
  }
}

bool DecidedKeys::Closed(std::uint32_t loader, std::uint64_t pass) const {
  if (pass < next_pass(loader)) return true;
  const Pass* p = Find(loader, pass);
  return p != nullptr && p->closed;
}

std::uint64_t DecidedKeys::next_pass(std::uint32_t loader) const {
  const auto l = loaders_.find(loader);
  return l == loaders_.end() ? 0 : l->second.next_pass;
}

void DecidedKeys::Merge(const DecidedSet& set) {
  for (std::size_t i = 0; i < set.next_pass.size(); ++i) {
    if (set.next_pass[i] == 0) continue;
    Loader& l = loaders_[static_cast<std::uint32_t>(i)];
    if (set.next_pass[i] <= l.next_pass) continue;
    l.next_pass = set.next_pass[i];
    l.passes.erase(l.passes.begin(), l.passes.lower_bound(l.next_pass));
  }
  for (const DecidedInterval& r : set.intervals) {
    if (r.begin >= r.end || r.pass < next_pass(r.loader)) continue;
    count_ += AddRange(loaders_[r.loader].passes[r.pass].intervals, r.begin, r.end);
  }
}

void DecidedKeys::Append(std::uint32_t index, const Loader& loader, DecidedSet* set) {
  for (const auto& [pass, p] : loader.passes) {
    for (const auto& [begin, end] : p.intervals)
      set->intervals.push_back({index, pass, begin, end});
  }
  if (loader.next_pass == 0) return;
  set->next_pass.resize(std::max<std::size_t>(set->next_pass.size(), index + 1), 0);
  set->next_pass[index] = loader.next_pass;
}

DecidedSet DecidedKeys::Export() const {
  DecidedSet set;
  for (const auto& [index, loader] : loaders_) Append(index, loader, &set);
  return set;
}

DecidedSet DecidedKeys::Export(std::uint32_t loader) const {
  DecidedSet set;
  if (const auto l = loaders_.find(loader); l != loaders_.end()) Append(loader, l->second, &set);
  return set;
}

}  // namespace siftd
