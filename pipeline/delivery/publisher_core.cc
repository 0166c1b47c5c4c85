// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/publisher_core.h"

#include <algorithm>
#include <utility>

#include "pipeline/base/hex.h"
#include "pipeline/delivery/client_links.h"

namespace siftd {
namespace {

constexpr int kCorruptTransfers = 2;  // of one worker, before a version counts as refused

using SnapshotPtr = std::shared_ptr<const ModelSnapshot>;

}  // namespace

struct PublisherCore::Impl final : ClientLinks::Owner {
  explicit Impl(PublisherCoreOptions o)
      : options(std::move(o)), links(this, options.incarnation, options.hello_deadline) {}

  struct Peer {
    std::uint64_t applied = 0;  // version of this run in force
    bool needs_artifact = false;
    bool takes_artifact = false;
    std::string artifact_sha256;  // that it has
    std::uint64_t refused = 0;    // newest version that it refused
    int corrupt = 0;
    SnapshotPtr sending;
    std::uint32_t next_chunk = 0;
    std::uint32_t acked_chunks = 0;
    bool committed = false;
    MonoTime progress{};
  };

  Hello MakeHello() override;
  Heartbeat MakeHeartbeat(MonoTime now) override;
  void OnOpened(std::size_t w, const Welcome& welcome, MonoTime now) override;
  void OnLost(std::size_t w, MonoTime now) override;
  void OnSessionMessage(std::size_t w, Message& message, MonoTime now) override;

  void OnAck(std::size_t w, ModelAck& m, MonoTime now);
  bool LacksArtifact(const Peer& peer) const;
  SnapshotPtr Next(std::size_t w) const;
  void Pump(std::size_t w, MonoTime now);
  void PumpChunks(std::size_t w, MonoTime now);
  void Report(std::size_t w, std::uint64_t version, ErrorCode code, std::string text);

  const PublisherCoreOptions options;
  ClientLinks links;
  std::vector<Peer> peers;
  SnapshotPtr newest;
  SnapshotPtr newest_full;
  SnapshotPtr artifact;
  std::string artifact_sha256;  // of `artifact`, in hexadecimal, as a Welcome tells it
  std::uint64_t step = 0;
  std::vector<PublisherActions::Applied> applied;
};

PublisherCore::PublisherCore(PublisherCoreOptions options, std::size_t workers, MonoTime now)
    : impl_(std::make_unique<Impl>(std::move(options))) {
  for (std::size_t w = 0; w < workers; ++w) AddWorker(now);
}

PublisherCore::~PublisherCore() = default;

std::size_t PublisherCore::AddWorker(MonoTime now) {
  impl_->peers.emplace_back();
  return impl_->links.Add(now);
}

void PublisherCore::NameWorker(std::size_t w, const std::string& name) {
  impl_->links.Name(w, name);
}

void PublisherCore::OnMessage(std::size_t w, Message message, MonoTime now) {
  impl_->links.OnMessage(w, message, now);
}

void PublisherCore::OnRefused(std::size_t w, const std::string& why, bool for_good, MonoTime now) {
  impl_->links.Refused(w, why, for_good, now);
}

void PublisherCore::OnLinkLost(std::size_t w, const std::string& why, MonoTime now) {
  impl_->links.Lose(w, why, now);
}

void PublisherCore::OnNotSent(std::size_t w, MonoTime now) { impl_->links.NotSent(w, now); }

void PublisherCore::OnTick(MonoTime now) {
  Impl& m = *impl_;
  for (std::size_t w = 0; w < m.peers.size(); ++w) {
    const Impl::Peer& peer = m.peers[w];
    if (peer.sending != nullptr && now - peer.progress > m.options.ack_deadline) {
      m.links.Lose(w, "no answer to model version " + std::to_string(peer.sending->begin.version),
                   now);
    }
  }
  m.links.OnTick(now);
}

Hello PublisherCore::Impl::MakeHello() {
  Hello hello;
  hello.role = Role::kPublisher;
  hello.job = options.job;
  hello.name = options.name;
  hello.run = options.run;
  return hello;
}

Heartbeat PublisherCore::Impl::MakeHeartbeat(MonoTime /*now*/) {
  Heartbeat beat;
  beat.run = options.run;
  beat.step = step;
  return beat;
}

void PublisherCore::Impl::OnOpened(std::size_t w, const Welcome& welcome, MonoTime now) {
  const int corrupt = peers[w].corrupt;
  peers[w] = {};
  peers[w].corrupt = corrupt;
  peers[w].applied = welcome.run == options.run ? welcome.model_version : 0;
  peers[w].needs_artifact = welcome.needs_artifact;
  peers[w].takes_artifact = welcome.artifact_upload;
  peers[w].artifact_sha256 = welcome.artifact_sha256;
  if (welcome.needs_artifact && !welcome.artifact_upload) {
    Report(w, 0, ErrorCode::kArtifactRefused,
           "it has no scorer of this job and takes none over the wire: start it with the "
           "artifact's path, or with "
           "allow_artifact_upload");
  }
  Pump(w, now);
}

void PublisherCore::Impl::OnLost(std::size_t w, MonoTime /*now*/) {
  peers[w].sending.reset();
  peers[w].applied = 0;
}

void PublisherCore::Impl::OnSessionMessage(std::size_t w, Message& message, MonoTime now) {
  if (auto* ack = std::get_if<ModelAck>(&message)) return OnAck(w, *ack, now);
  if (const auto* drain = std::get_if<Drain>(&message))
    links.Log(links.name(w) + " drains: " + drain->reason);
  if (std::holds_alternative<Goodbye>(message)) links.Lose(w, "it said Goodbye", now);
}

void PublisherCore::Impl::Report(std::size_t w, std::uint64_t version, ErrorCode code,
                                 std::string text) {
  applied.push_back({w, version, code != ErrorCode::kNone, code, std::move(text)});
}

void PublisherCore::Impl::OnAck(std::size_t w, ModelAck& m, MonoTime now) {
  Peer& peer = peers[w];
  if (m.run != options.run || peer.sending == nullptr || m.version != peer.sending->begin.version)
    return;
  const bool is_artifact = peer.sending->begin.kind == ModelKind::kArtifact;
  peer.progress = now;
  switch (m.state) {
    case ModelState::kReceiving:
      peer.acked_chunks = std::max(peer.acked_chunks, std::min(m.chunks, peer.next_chunk));
      return PumpChunks(w, now);
    case ModelState::kApplied:
      if (is_artifact) {
        peer.needs_artifact = false;
        peer.artifact_sha256 = artifact_sha256;
        peer.applied = 0;  // its weights are the archive's
      } else {
        peer.applied = m.version;
      }
      Report(w, m.version, ErrorCode::kNone, "");
      break;
    case ModelState::kRefused:
      Report(w, m.version, m.code, std::move(m.text));
      // A new connection clears whatever damaged the bytes.
      if (m.code == ErrorCode::kModelCorrupt && ++peer.corrupt <= kCorruptTransfers) {
        return links.Lose(
            w, "model version " + std::to_string(m.version) + " was damaged on its way", now);
      }
      if (is_artifact) {
        peer.takes_artifact = false;
      } else {
        peer.refused = std::max(peer.refused, m.version);
      }
      break;
    default:
      return;
  }
  peer.sending.reset();
  Pump(w, now);
}

// A worker that served another job may still have that one's, and say that it needs none. One that
// takes none over the wire is tried with its own.
bool PublisherCore::Impl::LacksArtifact(const Peer& peer) const {
  const bool others = artifact != nullptr && peer.artifact_sha256 != artifact_sha256;
  return peer.needs_artifact || (others && peer.takes_artifact);
}

SnapshotPtr PublisherCore::Impl::Next(std::size_t w) const {
  const Peer& peer = peers[w];
  if (LacksArtifact(peer)) return peer.takes_artifact ? artifact : nullptr;
  const auto lacks = [&](const SnapshotPtr& s) {
    return s != nullptr && s->begin.version > peer.applied && s->begin.version > peer.refused;
  };
  if (!lacks(newest)) return nullptr;
  if (newest->begin.kind == ModelKind::kFull) return newest;
  if (peer.applied != 0 && peer.applied + 1 == newest->begin.version) return newest;
  return lacks(newest_full) ? newest_full : nullptr;
}

void PublisherCore::Impl::Pump(std::size_t w, MonoTime now) {
  Peer& peer = peers[w];
  if (!links.open(w) || peer.sending != nullptr) return;
  peer.sending = Next(w);
  if (peer.sending == nullptr) return;
  peer.next_chunk = 0;
  peer.acked_chunks = 0;
  peer.committed = false;
  peer.progress = now;
  ModelBegin begin = peer.sending->begin;
  begin.run = options.run;
  links.Send(w, std::move(begin), now);
  PumpChunks(w, now);
}

void PublisherCore::Impl::PumpChunks(std::size_t w, MonoTime now) {
  Peer& peer = peers[w];
  const ModelSnapshot& s = *peer.sending;
  const std::uint32_t chunks = s.begin.chunks;
  while (peer.next_chunk < chunks && peer.next_chunk < peer.acked_chunks + options.window) {
    const std::uint32_t i = peer.next_chunk++;
    const std::uint64_t at = std::uint64_t{i} * s.begin.chunk_bytes;
    const std::uint64_t size = std::min<std::uint64_t>(s.begin.chunk_bytes, s.bytes.size() - at);
    ModelChunk chunk;
    chunk.run = options.run;
    chunk.version = s.begin.version;
    chunk.index = i;
    chunk.crc32 = s.crc32[i];
    chunk.bytes = Frame(s.bytes.owner(), s.bytes.data() + at, size);
    links.Send(w, std::move(chunk), now);
  }
  if (peer.next_chunk == chunks && !peer.committed) {
    peer.committed = true;
    links.Send(w, ModelCommit{{}, options.run, s.begin.version}, now);
  }
}

void PublisherCore::Offer(std::shared_ptr<const ModelSnapshot> snapshot, MonoTime now) {
  Impl& m = *impl_;
  if (m.newest != nullptr && snapshot->begin.version <= m.newest->begin.version) return;
  m.step = std::max(m.step, snapshot->begin.step);
  if (snapshot->begin.kind == ModelKind::kFull) m.newest_full = snapshot;
  m.newest = std::move(snapshot);
  for (std::size_t w = 0; w < m.peers.size(); ++w) m.Pump(w, now);
}

void PublisherCore::SetArtifact(std::shared_ptr<const ModelSnapshot> artifact, MonoTime now) {
  impl_->artifact = std::move(artifact);
  impl_->artifact_sha256 = Hex(impl_->artifact->begin.sha256);
  for (std::size_t w = 0; w < impl_->peers.size(); ++w) impl_->Pump(w, now);
}

void PublisherCore::SetStep(std::uint64_t step) { impl_->step = std::max(impl_->step, step); }

void PublisherCore::Leave(MonoTime now) {
  impl_->links.Leave(GoodbyeReason::kLeaving, impl_->options.run, now);
}

std::size_t PublisherCore::applied(std::uint64_t version) const {
  std::size_t n = 0;
  for (std::size_t w = 0; w < impl_->peers.size(); ++w) {
    if (impl_->links.open(w) && impl_->peers[w].applied >= version) ++n;
  }
  return n;
}

std::size_t PublisherCore::connected() const { return impl_->links.connected(); }
const Status& PublisherCore::failure() const { return impl_->links.failure(); }

std::string PublisherCore::WaitingFor(MonoTime now) const {
  const Impl& m = *impl_;
  const std::string missing = m.links.Missing(now);
  if (m.links.connected() == 0) {
    return "waits for a worker (" + missing + "); start the workers, or check their endpoints";
  }
  std::string text;
  for (std::size_t w = 0; w < m.peers.size(); ++w) {
    const Impl::Peer& peer = m.peers[w];
    if (!m.links.open(w) || (peer.sending == nullptr && !m.LacksArtifact(peer))) continue;
    if (!text.empty()) text += ", ";
    text += m.links.name(w);
    if (peer.sending == nullptr) {
      text += " needs a scorer artifact";
    } else {
      text += " has " + std::to_string(peer.acked_chunks) + " of " +
              std::to_string(peer.sending->begin.chunks) + " chunks of version " +
              std::to_string(peer.sending->begin.version);
    }
  }
  if (!missing.empty()) text += (text.empty() ? "" : ", ") + missing;
  return text.empty() ? "" : "waits for workers: " + text;
}

PublisherActions PublisherCore::TakeActions() {
  Impl& m = *impl_;
  PublisherActions actions;
  actions.reconnect = m.links.TakeReconnects();
  actions.sends = m.links.TakeSends();
  actions.applied = std::exchange(m.applied, {});
  actions.log = m.links.TakeLog();
  return actions;
}

}  // namespace siftd
