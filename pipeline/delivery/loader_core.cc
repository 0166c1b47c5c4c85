// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/loader_core.h"

#include <algorithm>
#include <cstdio>
#include <type_traits>

#include "pipeline/delivery/loader_core_impl.h"

namespace siftd {

LoaderCore::LoaderCore(LoaderCoreOptions options, std::size_t workers, MonoTime now)
    : impl_(std::make_unique<Impl>(std::move(options))) {
  if (impl_->options.mode == Mode::kVerdicts) {
    impl_->run = impl_->options.run;
    impl_->position = LoaderPosition{impl_->run, 0, {}, false};
  }
  for (std::size_t w = 0; w < workers; ++w) AddWorker(now);
}

LoaderCore::~LoaderCore() = default;

std::size_t LoaderCore::AddWorker(MonoTime now) {
  impl_->peers.emplace_back();
  return impl_->links.Add(now);
}

void LoaderCore::NameWorker(std::size_t w, const std::string& name) { impl_->links.Name(w, name); }

void LoaderCore::OnMessage(std::size_t w, Message message, MonoTime now) {
  impl_->links.OnMessage(w, message, now);
}

void LoaderCore::OnRefused(std::size_t w, const std::string& why, bool for_good, MonoTime now) {
  impl_->links.Refused(w, why, for_good, now);
}

void LoaderCore::OnLinkLost(std::size_t w, const std::string& why, MonoTime now) {
  impl_->links.Lose(w, why, now);
}

void LoaderCore::OnNotSent(std::size_t w, MonoTime now) { impl_->links.NotSent(w, now); }

void LoaderCore::OnTick(MonoTime now) {
  impl_->links.OnTick(now);
  impl_->TakeBackLate(now);
  impl_->Pump(now);
}

Hello LoaderCore::Impl::MakeHello() {
  Hello hello;
  hello.role = Role::kLoader;
  hello.job = options.job;
  hello.name = options.name;
  hello.loader_index = options.index;
  hello.loader_count = options.count;
  hello.signature = options.signature;
  hello.max_batch_bytes = options.max_batch_bytes;
  hello.fingerprint = options.fingerprint;
  if (options.mode == Mode::kVerdicts) {
    hello.run = options.run;
    hello.has_job_spec = true;
    hello.job_spec = options.job_spec;
  }
  return hello;
}

Heartbeat LoaderCore::Impl::MakeHeartbeat(MonoTime now) {
  Heartbeat beat;
  beat.run = run;
  beat.step = step;
  if (const auto oldest = leases.oldest()) {
    beat.oldest_lease_ms = static_cast<std::uint64_t>((now - *oldest) / milliseconds(1));
  }
  return beat;
}

void LoaderCore::Impl::OnOpened(std::size_t w, const Welcome& welcome, MonoTime now) {
  peers[w] = {};
  if (const auto death = suspects.Welcomed(w, welcome.worker_incarnation)) {
    links.Log(links.name(w) + " had died with " + std::to_string(death->held.size()) +
              " batches of this loader; they are scored alone from now on");
    for (const std::string& line : death->log) links.Log(line);
  }
  SendEnds(w, now);
  Pump(now);
}

void LoaderCore::Impl::OnLost(std::size_t w, MonoTime now) {
  peers[w] = {};
  leases.ReturnAll(w);
  Pump(now);
}

void LoaderCore::Impl::OnSessionMessage(std::size_t w, Message& message, MonoTime now) {
  std::visit(
      [&](auto& m) {
        if constexpr (requires { this->On(w, m, now); }) On(w, m, now);
      },
      message);
}

void LoaderCore::Impl::On(std::size_t w, Credit& m, MonoTime now) {
  peers[w].credit.Granted(m.batches, m.bytes);
  Pump(now);
}

void LoaderCore::Impl::On(std::size_t /*w*/, Settled& m, MonoTime now) {
  if (m.run != run || options.mode != Mode::kSamples) return;
  auto score = m.score.begin();
  for (std::size_t i = 0; i < m.keys.size(); ++i) {
    const std::int64_t rows = i < m.rows.size() ? m.rows[i] : 0;
    if (m.keys[i].loader == options.index) {
      if (rows > 0) KeepScores(m.keys[i], {score, score + rows});
      Settle(m.keys[i]);
    }
    score += rows;
  }
  Pump(now);
}

void LoaderCore::Impl::On(std::size_t w, Return& m, MonoTime now) {
  if (m.run != run) return;
  for (const BatchKey& key : m.keys) {
    leases.Return(key, w);
    suspects.Returned(w, key);
    // The worker has another loader's suspect.
    if (m.reason == ReturnReason::kLaneHung) careful_again = now + kCarefulAgain;
  }
  Pump(now);
}

void LoaderCore::Impl::On(std::size_t w, Verdict& m, MonoTime now) {
  if (m.run != run || options.mode != Mode::kVerdicts) return;
  const LeaseTable::Lease* asked = leases.Find(m.key);
  if (asked != nullptr && m.decision.rows != asked->batch.sample_id.size()) {
    return links.Lose(w,
                      "decided " + std::to_string(m.decision.rows) + " rows of batch " +
                          ToString(m.key) + ", which has " +
                          std::to_string(asked->batch.sample_id.size()),
                      now);
  }
  suspects.Forget(m.key);
  KeepScores(m.key, m.decision.score);
  if (const LeaseTable::Lease* lease = leases.Find(m.key)) {
    const Duration age = now - lease->sent;
    leases.Settle(m.key);
    verdicts.push_back({std::move(m), age});
  } else {
    ++late_verdicts;
    if (const auto sent = given_up.Take(m.key)) late.push_back(now - *sent);
  }
  Pump(now);
}

// A newer run: everything starts again from what its rank has decided.
void LoaderCore::Impl::On(std::size_t /*w*/, Position& m, MonoTime now) {
  if (options.mode != Mode::kSamples || m.loader != options.index || m.run <= run) return;
  leases.Clear();
  suspects.Clear();
  careful.reset();
  ends.clear();
  acked.clear();
  final_given = false;
  run = m.run;
  world = std::max(1u, m.world);
  repeat = m.repeat;
  decided = DecidedKeys(m.decided);
  for (Peer& peer : peers) peer.ends_sent.clear();
  position =
      LoaderPosition{run, decided.next_pass(options.index), decided.Export(options.index), repeat};
  Pump(now);
}

void LoaderCore::Impl::On(std::size_t /*w*/, EpochAck& m, MonoTime now) {
  if (m.run != run || m.loader != options.index || ends.erase(m.pass) == 0) return;
  acked.insert(m.pass);
  if (lockstep()) {  // acked means that every key of the pass is decided
    for (const LeaseTable::Lease& lease : leases.DropPass(m.pass)) {
      suspects.Forget(lease.batch.key);
      settled.push_back(lease.batch.key);
    }
    decided.Close(options.index, m.pass);
  }
  Pump(now);
}

void LoaderCore::Impl::On(std::size_t w, Drain& m, MonoTime /*now*/) {
  suspects.Drained(w);
  peers[w].draining = true;
  links.Log(links.name(w) + " drains: " + m.reason);
}

void LoaderCore::Impl::On(std::size_t w, Goodbye& m, MonoTime now) {
  if (m.reason != GoodbyeReason::kDone) {
    suspects.Drained(w);
    return links.Lose(w, "it said Goodbye", now);
  }
  if (options.mode == Mode::kSamples && m.run >= run) done_run = std::max(done_run, m.run);
}

void LoaderCore::Impl::SendEnds(std::size_t w, MonoTime now) {
  if (!links.open(w)) return;
  for (const auto& [pass, end] : ends) {
    if (peers[w].ends_sent.insert(pass).second) links.Send(w, end, now);
  }
}

bool LoaderCore::Impl::Acked(std::uint64_t pass) const {
  return run != 0 &&
         (!lockstep() || pass < decided.next_pass(options.index) || acked.contains(pass));
}

bool LoaderCore::Impl::done() const {
  if (run_done()) return true;
  if (options.mode == Mode::kVerdicts) return leases.size() == 0;
  return final_given && !position && ends.empty() && leases.size() == 0;
}

std::optional<LoaderPosition> LoaderCore::TakePosition() {
  return std::exchange(impl_->position, std::nullopt);
}

Status LoaderCore::Offer(Candidates batch, MonoTime now) {
  Impl& m = *impl_;
  if (m.links.failed()) return m.links.failure();
  if (m.run == 0) return FailedPrecondition("no position is known yet; " + m.WaitingFor(now));
  if (m.position) return FailedPrecondition("a new run began: take its position first");
  if (m.left || m.run_done()) return FailedPrecondition("the run is over");
  if (batch.key.loader != m.options.index) {
    return InvalidArgument("key.loader is " + std::to_string(batch.key.loader) +
                           "; allowed: this loader's index, " + std::to_string(m.options.index));
  }
  if (batch.sample_id.empty()) return InvalidArgument("sample_id has 0 rows; allowed: 1 or more");
  std::uint64_t bytes = 0;
  for (const Tensor& t : batch.tensors) bytes += t.bytes.size();
  if (m.options.max_batch_bytes > 0 && bytes > m.options.max_batch_bytes) {
    return InvalidArgument("batch " + ToString(batch.key) + " has " + std::to_string(bytes) +
                           " bytes; allowed: at most max_batch_bytes, " +
                           std::to_string(m.options.max_batch_bytes));
  }
  if (m.decided.Contains(batch.key)) return OkStatus();
  const std::uint64_t pass = batch.key.pass;
  if (m.lockstep() && pass > 0 && !m.Acked(pass - 1)) {
    return FailedPrecondition("pass " + std::to_string(pass) + " is not open: pass " +
                              std::to_string(pass - 1) + " was not acked yet");
  }
  if (m.lockstep() && m.ends.contains(pass)) {
    return FailedPrecondition("pass " + std::to_string(pass) + " was ended already");
  }
  const BatchKey key = batch.key;
  if (m.leases.Find(key) == nullptr && m.options.rescore_every > 1)
    batch.prior_score = m.scores.Visit(batch.sample_id);
  if (!m.leases.Add(std::move(batch), now))
    return InvalidArgument("batch " + ToString(key) + " was offered twice");
  m.Pump(now);
  return OkStatus();
}

std::size_t LoaderCore::unsent() const { return impl_->leases.waiting(); }
std::size_t LoaderCore::outstanding() const { return impl_->leases.size(); }

void LoaderCore::EndPass(std::uint64_t pass, std::uint32_t epoch, std::uint64_t batches, bool final,
                         MonoTime now) {
  Impl& m = *impl_;
  if (m.options.mode != Mode::kSamples || m.run == 0 || m.position) return;
  m.final_given = m.final_given || final;
  if (m.acked.contains(pass) || pass < m.decided.next_pass(m.options.index)) return;
  m.ends[pass] = EpochEnd{{}, m.run, m.options.index, pass, epoch, batches, final};
  for (std::size_t w = 0; w < m.peers.size(); ++w) m.SendEnds(w, now);
}

bool LoaderCore::PassAcked(std::uint64_t pass) const { return impl_->Acked(pass); }
bool LoaderCore::done() const { return impl_->done(); }

void LoaderCore::CancelPass(std::uint64_t pass, MonoTime now) {
  for (const LeaseTable::Lease& lease : impl_->leases.DropPass(pass)) {
    impl_->suspects.Forget(lease.batch.key);
    if (lease.worker) impl_->given_up.Add(lease.batch.key, lease.sent);
  }
  impl_->Pump(now);
}

void LoaderCore::CloseLease(const BatchKey& key, MonoTime now) {
  const LeaseTable::Lease* lease = impl_->leases.Find(key);
  if (lease != nullptr && lease->worker) impl_->given_up.Add(key, lease->sent);
  impl_->leases.Settle(key);
  impl_->suspects.Forget(key);
  impl_->Pump(now);
}

std::uint64_t LoaderCore::late_verdicts() const { return impl_->late_verdicts; }
void LoaderCore::SetStep(std::uint64_t step) { impl_->step = std::max(impl_->step, step); }

void LoaderCore::Leave(MonoTime now) {
  impl_->left = true;
  impl_->links.Leave(GoodbyeReason::kLeaving, impl_->run, now);
}

std::size_t LoaderCore::workers() const { return impl_->links.size(); }
std::size_t LoaderCore::connected() const { return impl_->links.connected(); }
std::string LoaderCore::WaitingFor(MonoTime now) const { return impl_->WaitingFor(now); }
const Status& LoaderCore::failure() const { return impl_->links.failure(); }

std::string LoaderCore::Impl::WaitingFor(MonoTime now) const {
  if (done()) return "";
  const std::string missing = links.Missing(now);
  if (links.connected() == 0) {
    return "waits for a worker (" + missing + "); start the workers, or check their endpoints";
  }
  const std::string also = missing.empty() ? "" : " (" + missing + ")";
  if (run == 0) {
    return "waits for its trainer rank to say what is decided; start the trainer of loader " +
           std::to_string(options.index) + also;
  }
  if (leases.waiting() > 0) {
    return "waits for credit to send " + std::to_string(leases.waiting()) +
           " batches; workers give it once they have the run's model and the trainer takes rows" +
           also;
  }
  if (const auto oldest = leases.oldest()) {
    char age[32];
    std::snprintf(age, sizeof(age), "%.1f", Seconds(now - *oldest));
    return "waits for the end of " + std::to_string(leases.size()) + " leases, the oldest " + age +
           " s old" + also;
  }
  if (!ends.empty()) {
    return "waits for the trainer to ack the end of pass " + std::to_string(ends.begin()->first) +
           "; it does so when every loader has ended its pass and all batches are decided" + also;
  }
  return "";
}

LoaderActions LoaderCore::TakeActions() {
  Impl& m = *impl_;
  LoaderActions actions;
  actions.reconnect = m.links.TakeReconnects();
  actions.sends = m.links.TakeSends();
  actions.verdicts = std::exchange(m.verdicts, {});
  actions.late = std::exchange(m.late, {});
  actions.settled = std::exchange(m.settled, {});
  actions.log = m.links.TakeLog();
  return actions;
}

}  // namespace siftd
