// SPDX-License-Identifier: Apache-2.0
// Rules 8 to 10 of the worker: epoch ends, positions and the end of a run pass through it, between
// a loader and its rank.
#include <iterator>

#include "pipeline/delivery/worker_core_impl.h"

namespace siftd {
namespace {

// Of one loader, not acked. A loader with mixed passes has a few; a peer that sends them for
// nothing must not fill the memory.
constexpr std::ptrdiff_t kEndsMost = 256;

}  // namespace

void WorkerCore::Impl::On(WorkerSession& s, EpochEnd& m, MonoTime now) {
  if (m.loader != s.hello.loader_index) return;
  if (m.run > run) AdoptRun(m.run);
  if (m.run != run) return;
  const auto first = ends.lower_bound({m.loader, 0});
  const auto last = ends.upper_bound({m.loader, UINT64_MAX});
  if (!ends.contains({m.loader, m.pass}) && std::distance(first, last) >= kEndsMost) {
    Refuse(s.peer, s.id, ErrorCode::kCreditExceeded,
           "pass " + std::to_string(m.pass) + " ends while " + std::to_string(kEndsMost) +
               " ends of loader " + std::to_string(m.loader) + " are not acked",
           "begin a pass only after the ends before it are acked", true);
    EndSession(s.seat, now, "ended too many passes at a time");
    return;
  }
  ends[{m.loader, m.pass}] = m;
  RelayEnds(RankOf(m.loader), now);
}

// Each end once per trainer session, until it is acked.
void WorkerCore::Impl::RelayEnds(std::uint32_t rank, MonoTime now) {
  WorkerSession* trainer = Find(Role::kTrainer, rank);
  if (trainer == nullptr) return;
  for (const auto& [where, end] : ends) {
    if (RankOf(where.first) == rank && trainer->ends_sent.insert(where).second)
      SendTo(*trainer, end, now);
  }
}

void WorkerCore::Impl::On(WorkerSession& s, EpochAck& m, MonoTime now) {
  if (m.run != run) return;
  ends.erase({m.loader, m.pass});
  s.ends_sent.erase({m.loader, m.pass});  // should the loader say it again, it is asked again
  if (WorkerSession* loader = Find(Role::kLoader, m.loader)) SendTo(*loader, m, now);
}

// Each loader session learns once per run which keys are decided.
void WorkerCore::Impl::AskPositions(std::uint32_t rank, MonoTime now) {
  WorkerSession* trainer = Find(Role::kTrainer, rank);
  if (trainer == nullptr || run == 0) return;
  for (auto& [seat, s] : sessions) {
    if (seat.role != Role::kLoader || RankOf(s.hello.loader_index) != rank) continue;
    if (s.position_run == run || s.position_asked == trainer->id) continue;
    s.position_asked = trainer->id;
    SendTo(*trainer, PositionRequest{{}, run, s.hello.loader_index}, now);
  }
}

void WorkerCore::Impl::On(WorkerSession& s, Position& m, MonoTime now) {
  WorkerSession* loader = Find(Role::kLoader, m.loader);
  if (m.run != run || loader == nullptr || loader->position_run == run ||
      loader->position_asked != s.id)
    return;
  loader->position_run = run;
  SendTo(*loader, m, now);
  PumpCredit(now);
}

void WorkerCore::Impl::On(WorkerSession& s, Goodbye& m, MonoTime now) {
  const Seat seat = s.seat;
  if (seat.role == Role::kTrainer && m.reason == GoodbyeReason::kDone && s.hello.run == run) {
    done_ranks.insert(s.hello.rank);
    for (auto& [other, loader] : sessions) {
      if (other.role == Role::kLoader) TellDone(loader, now);
    }
    return;  // it goes on acking until it leaves
  }
  if (seat.role == Role::kLoader && verdicts()) {
    std::vector<BatchKey> keys;
    for (const auto& [key, entry] : entries) {
      if (key.loader == s.hello.loader_index) keys.push_back(key);
    }
    for (const BatchKey& key : keys) Erase(key);
  }
  EndSession(seat, now, "said Goodbye");
}

void WorkerCore::Impl::TellDone(WorkerSession& loader, MonoTime now) {
  if (world == 0 || !done_ranks.contains(RankOf(loader.hello.loader_index))) return;
  SendTo(loader, Goodbye{{}, GoodbyeReason::kDone, run}, now);
}

}  // namespace siftd
