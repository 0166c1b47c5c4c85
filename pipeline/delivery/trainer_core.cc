// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/trainer_core.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "pipeline/delivery/client_links.h"
#include "pipeline/delivery/credit.h"
#include "pipeline/delivery/decided_keys.h"
#include "pipeline/delivery/epoch_book.h"
#include "pipeline/delivery/kept_counts.h"

namespace siftd {

struct TrainerCore::Impl final : ClientLinks::Owner {
  explicit Impl(TrainerCoreOptions o)
      : options(std::move(o)),
        links(this, options.incarnation, options.hello_deadline),
        decided(options.decided),
        book(options.loader_count, options.rank, std::max(1u, options.world),
             options.world <= 1 && options.steps_per_epoch == 0) {}

  Hello MakeHello() override;
  Heartbeat MakeHeartbeat(MonoTime now) override;
  void OnOpened(std::size_t w, const Welcome& welcome, MonoTime now) override;
  void OnLost(std::size_t w, MonoTime now) override;
  void OnSessionMessage(std::size_t w, Message& message, MonoTime now) override;

  void On(std::size_t w, Selected& m, MonoTime now);
  void On(std::size_t w, EpochEnd& m, MonoTime now);
  void On(std::size_t w, PositionRequest& m, MonoTime now);
  void On(std::size_t w, Drain& m, MonoTime now);
  void On(std::size_t w, Goodbye& m, MonoTime now);
  void Accept(std::size_t w, Selected& m);
  void CompleteEpochs(MonoTime now);
  void Flush(MonoTime now);

  struct Peer {
    CreditReceiver credit;
    std::vector<BatchKey> acks;  // to be sent
    MonoTime goodbye_at{};
  };

  const TrainerCoreOptions options;
  ClientLinks links;
  std::vector<Peer> peers;
  DecidedKeys decided;
  KeptCounts kept;
  EpochBook book;
  std::unordered_map<BatchKey, std::size_t> buffered;  // key -> worker that delivered it
  std::vector<std::uint64_t> buffered_batches;         // by worker; outlives its sessions
  std::size_t buffered_rows = 0;
  std::uint64_t duplicates = 0;
  std::uint64_t step = 0;
  bool finished = false;
  MonoTime now{};  // of the last event
  std::vector<Selected> accepted;
  std::vector<TrainerActions::Ended> ended;
};

TrainerCore::TrainerCore(TrainerCoreOptions options, std::size_t workers, MonoTime now)
    : impl_(std::make_unique<Impl>(std::move(options))) {
  for (std::size_t w = 0; w < workers; ++w) AddWorker(now);
}

TrainerCore::~TrainerCore() = default;

std::size_t TrainerCore::AddWorker(MonoTime now) {
  impl_->now = now;
  impl_->peers.emplace_back();
  impl_->buffered_batches.push_back(0);
  return impl_->links.Add(now);
}

void TrainerCore::NameWorker(std::size_t w, const std::string& name) { impl_->links.Name(w, name); }

void TrainerCore::OnMessage(std::size_t w, Message message, MonoTime now) {
  impl_->now = now;
  impl_->links.OnMessage(w, message, now);
}

void TrainerCore::OnRefused(std::size_t w, const std::string& why, bool for_good, MonoTime now) {
  impl_->links.Refused(w, why, for_good, now);
}

void TrainerCore::OnLinkLost(std::size_t w, const std::string& why, MonoTime now) {
  impl_->now = now;
  impl_->links.Lose(w, why, now);
}

void TrainerCore::OnNotSent(std::size_t w, MonoTime now) {
  impl_->now = now;
  impl_->links.NotSent(w, now);
}

void TrainerCore::OnTick(MonoTime now) {
  impl_->now = now;
  impl_->links.OnTick(now);
}

// Without the decided keys: workers ask for them by PositionRequest, where they are newer.
Hello TrainerCore::Impl::MakeHello() {
  Hello hello;
  hello.role = Role::kTrainer;
  hello.job = options.job;
  hello.name = options.name;
  hello.run = options.run;
  hello.rank = options.rank;
  hello.world = options.world;
  hello.has_job_spec = true;
  hello.job_spec = options.job_spec;
  return hello;
}

Heartbeat TrainerCore::Impl::MakeHeartbeat(MonoTime /*now*/) {
  Heartbeat beat;
  beat.run = options.run;
  beat.step = step;
  beat.decided = decided.count();
  return beat;
}

void TrainerCore::Impl::OnOpened(std::size_t w, const Welcome& /*welcome*/, MonoTime at) {
  peers[w] = {};
  if (!finished) return;
  peers[w].goodbye_at = at;
  links.Send(w, Goodbye{{}, GoodbyeReason::kDone, options.run}, at);
}

void TrainerCore::Impl::OnLost(std::size_t w, MonoTime /*at*/) { peers[w] = {}; }

void TrainerCore::Impl::OnSessionMessage(std::size_t w, Message& message, MonoTime at) {
  std::visit(
      [&](auto& m) {
        if constexpr (requires { this->On(w, m, at); }) On(w, m, at);
      },
      message);
}

void TrainerCore::Impl::On(std::size_t w, Selected& m, MonoTime at) {
  std::uint64_t bytes = 0;
  for (const Tensor& t : m.tensors) bytes += t.bytes.size();
  if (!peers[w].credit.Received(bytes)) return links.Lose(w, "it sent rows without credit", at);
  if (m.run != options.run) return;
  peers[w].acks.push_back(m.key);
  if (decided.Contains(m.key)) {
    ++duplicates;
    return;
  }
  Accept(w, m);
  CompleteEpochs(at);
}

// The first Selected that is taken in is the decision.
void TrainerCore::Impl::Accept(std::size_t w, Selected& m) {
  decided.Insert(m.key);
  if (finished) return;
  const std::size_t rows = m.decision.kept.size();
  kept.Set(m.key, static_cast<std::uint32_t>(rows));
  if (rows > 0) {
    buffered.emplace(m.key, w);
    ++buffered_batches[w];
    buffered_rows += rows;
  }
  accepted.push_back(std::move(m));
}

void TrainerCore::Impl::On(std::size_t w, EpochEnd& m, MonoTime at) {
  if (m.run != options.run) return;
  const bool closed = decided.Closed(m.loader, m.pass);
  if (closed || !book.lockstep()) links.Send(w, EpochAck{{}, options.run, m.loader, m.pass}, at);
  if (closed) return;
  book.Record(m);
  CompleteEpochs(at);
}

void TrainerCore::Impl::CompleteEpochs(MonoTime at) {
  while (auto completed = book.TakeCompleted(decided)) {
    for (const EpochEnd& end : completed->passes) {
      decided.Close(end.loader, end.pass);
      if (!book.lockstep()) continue;
      for (std::size_t w = 0; w < peers.size(); ++w) {
        if (links.open(w)) links.Send(w, EpochAck{{}, options.run, end.loader, end.pass}, at);
      }
    }
    ended.push_back({completed->epoch, std::move(completed->passes)});
  }
}

void TrainerCore::Impl::On(std::size_t w, PositionRequest& m, MonoTime at) {
  if (m.run != options.run) return;
  links.Send(w,
             Position{{},
                      options.run,
                      m.loader,
                      decided.Export(m.loader),
                      options.world,
                      options.steps_per_epoch > 0},
             at);
}

void TrainerCore::Impl::On(std::size_t w, Drain& m, MonoTime /*at*/) {
  links.Log(links.name(w) + " drains: " + m.reason);
}

void TrainerCore::Impl::On(std::size_t w, Goodbye& /*m*/, MonoTime at) {
  links.Lose(w, "it said Goodbye", at);
}

// Acks and credit, gathered over the events since the last call.
void TrainerCore::Impl::Flush(MonoTime at) {
  const bool starving = finished || buffered_rows < options.batch_size;
  for (std::size_t w = 0; w < peers.size(); ++w) {
    if (!links.open(w)) continue;
    Peer& peer = peers[w];
    if (!peer.acks.empty()) {
      Ack ack;
      ack.run = options.run;
      ack.keys = std::exchange(peer.acks, {});
      for (const BatchKey& key : ack.keys) ack.kept.push_back(kept.Get(key));
      links.Send(w, std::move(ack), at);
    }
    const std::uint64_t held = finished ? 0 : buffered_batches[w];
    std::uint64_t allow = options.window > held ? options.window - held : 0;
    if (starving) allow = std::max<std::uint64_t>(allow, 1);
    const std::uint64_t batch_bytes =
        std::max<std::uint64_t>(1, links.session(w).welcome().max_batch_bytes);
    if (peer.credit.AllowOutstanding(allow, batch_bytes)) {
      links.Send(w, Credit{{}, peer.credit.granted_batches(), peer.credit.granted_bytes()}, at);
    }
  }
}

void TrainerCore::OnConsumed(const std::vector<BatchKey>& emptied, std::size_t buffered_rows,
                             MonoTime now) {
  Impl& m = *impl_;
  m.now = now;
  m.buffered_rows = buffered_rows;
  for (const BatchKey& key : emptied) {
    const auto it = m.buffered.find(key);
    if (it == m.buffered.end()) continue;  // restored from a state
    --m.buffered_batches[it->second];
    m.buffered.erase(it);
  }
}

void TrainerCore::SetStep(std::uint64_t step) { impl_->step = std::max(impl_->step, step); }

void TrainerCore::Finish(MonoTime now) {
  Impl& m = *impl_;
  m.now = now;
  if (std::exchange(m.finished, true)) return;
  for (std::size_t w = 0; w < m.peers.size(); ++w) {
    if (!m.links.open(w)) continue;
    m.peers[w].goodbye_at = now;
    m.links.Send(w, Goodbye{{}, GoodbyeReason::kDone, m.options.run}, now);
  }
}

void TrainerCore::Leave(MonoTime now) {
  impl_->now = now;
  impl_->Flush(now);
  impl_->links.Leave(GoodbyeReason::kLeaving, impl_->options.run, now);
}

bool TrainerCore::Idle() const {
  const Impl& m = *impl_;
  if (!m.finished) return false;
  for (std::size_t w = 0; w < m.peers.size(); ++w) {
    if (!m.links.open(w)) continue;
    if (!m.peers[w].acks.empty()) return false;
    const ClientSession& session = m.links.session(w);
    if (session.heard() < m.peers[w].goodbye_at + session.heartbeat()) return false;
  }
  return m.links.connected() > 0;
}

bool TrainerCore::AllFinal() const { return impl_->book.lockstep() && impl_->book.AllFinal(); }
DecidedSet TrainerCore::decided() const { return impl_->decided.Export(); }
std::uint64_t TrainerCore::decided_count() const { return impl_->decided.count(); }
std::uint64_t TrainerCore::duplicates() const { return impl_->duplicates; }
std::size_t TrainerCore::workers() const { return impl_->links.size(); }
std::size_t TrainerCore::connected() const { return impl_->links.connected(); }
const Status& TrainerCore::failure() const { return impl_->links.failure(); }

std::string TrainerCore::WaitingFor(MonoTime now) const {
  const Impl& m = *impl_;
  const std::string missing = m.links.Missing(now);
  if (m.links.connected() == 0) {
    return "waits for a worker (" + missing + "); start the workers, or check their endpoints";
  }
  std::string text = "waits for rows from " + std::to_string(m.links.connected()) + " workers: ";
  const std::string loaders = m.book.Missing(m.decided);
  text += loaders.empty() ? "no loader feeds rank " + std::to_string(m.options.rank) : loaders;
  text += "; are the loaders running, and has the model been published?";
  return missing.empty() ? text : text + " (" + missing + ")";
}

TrainerActions TrainerCore::TakeActions() {
  Impl& m = *impl_;
  m.Flush(m.now);
  TrainerActions actions;
  actions.reconnect = m.links.TakeReconnects();
  actions.sends = m.links.TakeSends();
  actions.accepted = std::exchange(m.accepted, {});
  actions.ended = std::exchange(m.ended, {});
  actions.log = m.links.TakeLog();
  return actions;
}

}  // namespace siftd
