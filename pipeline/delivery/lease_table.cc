// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/lease_table.h"

namespace siftd {

bool LeaseTable::Add(Candidates batch, MonoTime now) {
  const BatchKey key = batch.key;
  const auto [it, added] = leases_.try_emplace(key);
  if (!added) return false;
  it->second.batch = std::move(batch);
  it->second.age = next_age_++;
  it->second.added = now;
  by_age_.insert({it->second.age, key});
  waiting_.insert({it->second.age, key});
  return true;
}

std::set<LeaseTable::Aged>& LeaseTable::Out(std::size_t worker) {
  if (worker >= out_.size()) out_.resize(worker + 1);
  return out_[worker];
}

bool LeaseTable::Settle(const BatchKey& key) {
  const auto it = leases_.find(key);
  if (it == leases_.end()) return false;
  const Aged aged{it->second.age, key};
  if (it->second.worker) Out(*it->second.worker).erase(aged);
  waiting_.erase(aged);
  by_age_.erase(aged);
  leases_.erase(it);
  return true;
}

const LeaseTable::Lease* LeaseTable::Find(const BatchKey& key) const {
  const auto it = leases_.find(key);
  return it == leases_.end() ? nullptr : &it->second;
}

const LeaseTable::Lease* LeaseTable::OldestWaiting(
    const std::function<bool(const BatchKey&)>& wanted) const {
  for (const Aged& aged : waiting_) {
    if (wanted(aged.second)) return &leases_.at(aged.second);
  }
  return nullptr;
}

const LeaseTable::Lease& LeaseTable::Send(const BatchKey& key, std::size_t worker, MonoTime now) {
  Lease& lease = leases_.at(key);
  waiting_.erase({lease.age, key});
  Out(worker).insert({lease.age, key});
  lease.worker = worker;
  lease.sent = now;
  lease.batch.attempt = lease.attempts++;
  return lease;
}

void LeaseTable::Release(Lease& lease) {
  lease.worker.reset();
  waiting_.insert({lease.age, lease.batch.key});
}

bool LeaseTable::Return(const BatchKey& key, std::size_t worker) {
  const auto it = leases_.find(key);
  if (it == leases_.end() || it->second.worker != worker) return false;
  Out(worker).erase({it->second.age, key});
  Release(it->second);
  return true;
}

std::size_t LeaseTable::ReturnAll(std::size_t worker) {
  std::set<Aged> out;
  out.swap(Out(worker));
  for (const Aged& aged : out) Release(leases_.at(aged.second));
  return out.size();
}

std::vector<std::pair<BatchKey, std::size_t>> LeaseTable::SentBefore(MonoTime limit) const {
  std::vector<std::pair<BatchKey, std::size_t>> late;
  for (std::size_t w = 0; w < out_.size(); ++w) {
    for (const Aged& aged : out_[w]) {
      if (leases_.at(aged.second).sent < limit) late.emplace_back(aged.second, w);
    }
  }
  return late;
}

std::vector<LeaseTable::Lease> LeaseTable::DropPass(std::uint64_t pass) {
  std::vector<Lease> dropped;
  for (const Aged& aged : by_age_) {
    if (aged.second.pass == pass) dropped.push_back(leases_.at(aged.second));
  }
  for (const Lease& lease : dropped) Settle(lease.batch.key);
  return dropped;
}

void LeaseTable::Clear() {
  leases_.clear();
  by_age_.clear();
  waiting_.clear();
  out_.clear();
}

std::optional<MonoTime> LeaseTable::oldest() const {
  if (by_age_.empty()) return std::nullopt;
  return leases_.at(by_age_.begin()->second).added;
}

}  // namespace siftd
