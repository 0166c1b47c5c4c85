// SPDX-License-Identifier: Apache-2.0
// Rules 2, 6 and 11 of the loader: leases go out oldest first to the worker with most free credit;
// suspects alone.
#include "pipeline/delivery/loader_core_impl.h"

namespace siftd {

void LoaderCore::Impl::Settle(const BatchKey& key) {
  suspects.Forget(key);
  if (!leases.Settle(key)) return;
  decided.Insert(key);
  settled.push_back(key);
}

void LoaderCore::Impl::KeepScores(const BatchKey& key, const std::vector<float>& score) {
  const LeaseTable::Lease* lease = leases.Find(key);
  if (lease != nullptr) scores.Take(lease->batch.sample_id, lease->batch.prior_score, score);
}

void LoaderCore::Impl::TakeBackLate(MonoTime now) {
  if (options.lease_deadline <= Duration::zero()) return;
  for (const auto& [key, w] : leases.SentBefore(now - options.lease_deadline)) {
    links.Log("batch " + ToString(key) + " was out at " + links.name(w) +
              " beyond its deadline; it is sent again");
    leases.Return(key, w);
  }
}

std::optional<std::size_t> LoaderCore::Impl::BestWorker(std::optional<std::size_t> reserved) const {
  std::optional<std::size_t> best;
  for (std::size_t w = 0; w < peers.size(); ++w) {
    if (!Usable(w) || w == reserved || !peers[w].credit.CanSend()) continue;
    if (!best || peers[w].credit.free_batches() > peers[*best].credit.free_batches() ||
        (peers[w].credit.free_batches() == peers[*best].credit.free_batches() &&
         leases.out(w) < leases.out(*best))) {
      best = w;
    }
  }
  return best;
}

void LoaderCore::Impl::Pump(MonoTime now) {
  if (run == 0 || position || left || run_done() || links.failed()) return;
  const auto reserved = PumpCareful(now);
  while (leases.waiting() > 0) {
    const auto w = BestWorker(reserved);
    if (!w) return;
    const auto* lease = leases.OldestWaiting([this](const BatchKey& key) {
      return suspects.size() == 0 || suspects.CareFor(key) == Suspects::Care::kNone;
    });
    if (lease == nullptr) return;
    SendLease(*w, BatchKey(lease->batch.key), now);
  }
}

// One batch that needs care is out at a time, at a worker that holds nothing else of this loader,
// so that a death points at it. The worker that is set aside for it.
std::optional<std::size_t> LoaderCore::Impl::PumpCareful(MonoTime now) {
  if (careful) {
    const auto* lease = leases.Find(careful->first);
    if (lease != nullptr && lease->worker == careful->second) return careful->second;
    careful.reset();
  }
  const auto* lease =
      suspects.size() == 0 ? nullptr : leases.OldestWaiting([this](const BatchKey& key) {
        return suspects.CareFor(key) != Suspects::Care::kNone;
      });
  if (lease == nullptr) {
    reserved_for_careful.reset();
    return std::nullopt;
  }
  if (!reserved_for_careful || !Usable(*reserved_for_careful)) {
    reserved_for_careful.reset();
    for (std::size_t w = 0; w < peers.size(); ++w) {
      if (!Usable(w)) continue;
      if (!reserved_for_careful || leases.out(w) < leases.out(*reserved_for_careful))
        reserved_for_careful = w;
    }
  }
  if (now >= careful_again && reserved_for_careful && leases.out(*reserved_for_careful) == 0 &&
      peers[*reserved_for_careful].credit.CanSend()) {
    careful.emplace(lease->batch.key, *reserved_for_careful);
    SendLease(careful->second, careful->first, now);
  }
  return reserved_for_careful;
}

void LoaderCore::Impl::SendLease(std::size_t w, const BatchKey& key, MonoTime now) {
  Candidates batch = leases.Send(key, w, now).batch;
  suspects.Sent(w, key);
  const Suspects::Care care = suspects.CareFor(key);
  batch.run = run;
  batch.trainer_step = options.mode == Mode::kVerdicts ? step : 0;
  batch.suspect = care != Suspects::Care::kNone;
  batch.unscored = care == Suspects::Care::kUnscored;
  // Without its tensors it fits no model, so the worker rejects it and the key is decided all the
  // same.
  if (care == Suspects::Care::kRejected) batch.tensors.clear();
  std::uint64_t bytes = 0;
  for (const Tensor& t : batch.tensors) bytes += t.bytes.size();
  peers[w].credit.Sent(bytes);
  links.Send(w, std::move(batch), now);
}

}  // namespace siftd
