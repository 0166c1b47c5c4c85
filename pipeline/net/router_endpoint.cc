// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/router_endpoint.h"

#include <poll.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <unordered_map>
#include <utility>

#include "pipeline/net/gate.h"
#include "pipeline/net/key_files.h"
#include "pipeline/net/socket_options.h"

namespace siftd {
namespace {

constexpr std::size_t kMaxFrames = 34 + 1;  // and the routing id
constexpr int kLingerMs = 200;              // for Drain and Return, as the last words of a worker
constexpr std::size_t kCutMost = 4096;      // cut peers that are remembered
constexpr int kUnreadMost = 64;             // messages of cut peers that one Receive reads

// Loopback and private files need no keys.
bool IsPrivate(const std::string& endpoint) {
  for (const char* prefix : {"ipc://", "tcp://127.", "tcp://localhost:", "tcp://[::1]:"}) {
    if (endpoint.rfind(prefix, 0) == 0) return true;
  }
  return false;
}

Status CheckEndpoint(const RouterOptions& options) {
  const std::string& e = options.endpoint;
  if (e.rfind("tcp://", 0) != 0 && e.rfind("ipc://", 0) != 0) {
    return InvalidArgument("endpoint is '" + e + "'; allowed: tcp://ADDRESS:PORT or ipc://PATH");
  }
  if (options.key_file.empty() != options.client_keys.empty()) {
    return InvalidArgument("key_file is '" + options.key_file + "' and client_keys '" +
                           options.client_keys +
                           "'; allowed: both, as `siftd keygen worker` makes them, or neither");
  }
  if (!IsPrivate(e) && options.key_file.empty() && !options.insecure_plaintext) {
    return InvalidArgument(
        "endpoint is '" + e +
        "', reachable from other hosts without encryption; allowed: a loopback or ipc:// "
        "address; key_file and client_keys (`siftd keygen worker`); or insecure_plaintext: true on "
        "a network that you trust");
  }
  return OkStatus();
}

}  // namespace

struct RouterEndpoint::Impl {
  struct Peer {
    std::string id;       // routing id
    std::string key;      // public; empty without encryption
    std::string address;  // empty: ipc
    PeerRights told;
    bool cut = false;
  };

  // By the keys of this moment: a new one may come with its first peer.
  std::shared_ptr<const KeyRing::Table> Keys() const {
    return gate == nullptr ? nullptr : gate->ring().table();
  }
  static PeerRights Judge(const Peer& peer, const KeyRing::Table* keys);
  // The peer that sent `frames`: its routing id, and at least one part.
  std::uint64_t Find(const Frames& frames, bool* fresh);
  void Drop(std::unordered_map<std::uint64_t, Peer>::iterator peer);

  zmq::context_t context{1};
  std::unique_ptr<net::Gate> gate;  // outlives the socket; null without keys
  zmq::socket_t socket{context, zmq::socket_type::router};
  std::string bound;
  std::optional<net::ConnectionGuard> guard;
  std::uint64_t next_peer = 1;
  std::unordered_map<std::string, std::uint64_t> peer_of;  // by routing id
  std::unordered_map<std::uint64_t, Peer> peers;
  std::deque<std::uint64_t> cut;  // oldest first
  std::uint64_t generation = 0;   // of the keys, at the last TakeChanged
};

PeerRights RouterEndpoint::Impl::Judge(const Peer& peer, const KeyRing::Table* keys) {
  if (keys == nullptr) return {"", peer.address, kAllRoles};
  const auto holder = keys->find(peer.key);
  if (holder == keys->end()) return {"", peer.key, 0};
  return {holder->second.name, peer.key, holder->second.roles};
}

// With keys each message's own is looked at: a peer chooses its routing id, and could take that of
// one that has left.
std::uint64_t RouterEndpoint::Impl::Find(const Frames& frames, bool* fresh) {
  const std::string id(frames[0].view());
  const auto known = peer_of.find(id);
  std::string key = gate == nullptr ? "" : net::Property(frames[1], "User-Id");
  if (known != peer_of.end()) {
    const auto peer = peers.find(known->second);
    if (peer->second.key == key) return known->second;
    Drop(peer);
  }
  *fresh = true;
  const std::uint64_t handle = next_peer++;
  peer_of.emplace(id, handle);
  Peer peer{id, std::move(key), net::Property(frames[1], "Peer-Address"), {}, false};
  peer.told = Judge(peer, Keys().get());
  peers.emplace(handle, std::move(peer));
  return handle;
}

void RouterEndpoint::Impl::Drop(std::unordered_map<std::uint64_t, Peer>::iterator peer) {
  if (peer == peers.end()) return;
  peer_of.erase(peer->second.id);
  peers.erase(peer);
}

RouterEndpoint::RouterEndpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RouterEndpoint::~RouterEndpoint() {
  if (impl_->gate != nullptr) impl_->gate->Stop();
  impl_->socket.set(zmq::sockopt::linger, kLingerMs);
}

Result<std::unique_ptr<RouterEndpoint>> RouterEndpoint::Bind(const RouterOptions& options) {
  SIFTD_RETURN_IF_ERROR(CheckEndpoint(options));
  CurveKeys own;
  std::unique_ptr<KeyRing> ring;
  if (!options.key_file.empty()) {
    SIFTD_ASSIGN_OR_RETURN(own, ReadSecretKeyFile(options.key_file));
    SIFTD_ASSIGN_OR_RETURN(ring, KeyRing::Open(options.client_keys));
  }
  try {
    auto impl = std::make_unique<Impl>();
    net::Configure(impl->socket, {options.max_frame_bytes, options.high_water_mark, 34});
    impl->socket.set(zmq::sockopt::router_mandatory, true);
    impl->socket.set(zmq::sockopt::backlog, 1024);
    impl->socket.set(zmq::sockopt::ipv6, options.endpoint.find('[') != std::string::npos);
    // Ended by its own destructor from here on, also where the bind fails.
    std::unique_ptr<RouterEndpoint> router(new RouterEndpoint(std::move(impl)));
    Impl& m = *router->impl_;
    if (ring != nullptr) {
      m.generation = ring->generation();
      m.gate =
          std::make_unique<net::Gate>(m.context, std::move(ring), options.handshakes, options.log);
      m.gate->Guard(m.socket, own);
    }
    m.socket.bind(options.endpoint);
    m.bound = m.socket.get(zmq::sockopt::last_endpoint);
    m.guard.emplace(m.bound, options.guard);
    return router;
  } catch (const zmq::error_t& e) {
    return Unavailable("cannot bind " + options.endpoint + ": " + e.what() +
                       ". Is another worker there? Port 0 takes any free port");
  }
}

const std::string& RouterEndpoint::BoundEndpoint() const { return impl_->bound; }

void RouterEndpoint::Poll(Duration timeout, const Wakeup& wakeup) {
  // zmq_poll would look twice at both. The socket's descriptor tells that something happened, once;
  // most of what happens to connections brings no message.
  const MonoTime begin = Now();
  impl_->guard->Look(begin);
  const MonoTime deadline = std::min(begin + timeout, impl_->guard->next_look());
  pollfd fds[] = {{impl_->socket.get(zmq::sockopt::fd), POLLIN, 0}, {wakeup.fd(), POLLIN, 0}};
  try {
    while ((impl_->socket.get(zmq::sockopt::events) & ZMQ_POLLIN) == 0) {
      const auto left = std::chrono::ceil<milliseconds>(deadline - Now()).count();
      const int woken = poll(fds, 2, static_cast<int>(std::max<std::int64_t>(0, left)));
      if (woken <= 0 || fds[1].revents != 0) return;
    }
  } catch (const zmq::error_t& e) {
    if (e.num() != EINTR) throw;
  }
}

bool RouterEndpoint::Receive(Received* out) {
  Impl& m = *impl_;
  for (int unread = 0; unread < kUnreadMost; ++unread) {
    int source = -1;
    const net::ReceiveOutcome outcome =
        net::ReceiveAll(m.socket, kMaxFrames, &out->frames, &source);
    if (outcome == net::ReceiveOutcome::kNothing) return false;
    m.guard->Delivered(source);
    out->fresh = false;
    out->peer = m.Find(out->frames, &out->fresh);
    if (m.peers.at(out->peer).cut) continue;
    out->frames.erase(out->frames.begin());
    out->too_many_frames = outcome == net::ReceiveOutcome::kTooManyFrames;
    return true;
  }
  return false;
}

PeerRights RouterEndpoint::Rights(std::uint64_t peer) const {
  const auto it = impl_->peers.find(peer);
  return it == impl_->peers.end() ? PeerRights{"", "", 0} : it->second.told;
}

std::vector<std::uint64_t> RouterEndpoint::TakeChanged() {
  Impl& m = *impl_;
  std::vector<std::uint64_t> changed;
  if (m.gate == nullptr || m.gate->ring().generation() == m.generation) return changed;
  m.generation = m.gate->ring().generation();  // before the table: a newer one is taken again
  const auto keys = m.Keys();
  for (auto& [handle, peer] : m.peers) {
    PeerRights now = Impl::Judge(peer, keys.get());
    if (now == peer.told) continue;
    peer.told = std::move(now);
    changed.push_back(handle);
  }
  return changed;
}

std::uint64_t RouterEndpoint::refused_handshakes() const {
  return impl_->gate == nullptr ? 0 : impl_->gate->refused();
}

RouterEndpoint::Sent RouterEndpoint::Send(std::uint64_t peer, const Frames& frames) {
  const auto it = impl_->peers.find(peer);
  if (it == impl_->peers.end() || it->second.cut) return Sent::kUnreachable;
  try {
    zmq::message_t id(it->second.id.data(), it->second.id.size());
    if (impl_->socket.send(id, zmq::send_flags::dontwait | zmq::send_flags::sndmore) &&
        net::SendAll(impl_->socket, frames) == net::SendOutcome::kSent) {
      return Sent::kSent;
    }
  } catch (const zmq::error_t&) {  // EHOSTUNREACH
  }
  Forget(peer);
  return Sent::kUnreachable;
}

const net::Cuts& RouterEndpoint::cuts() const { return impl_->guard->cuts(); }

void RouterEndpoint::Forget(std::uint64_t peer) {
  const auto it = impl_->peers.find(peer);
  if (it != impl_->peers.end() && !it->second.cut) impl_->Drop(it);
}

void RouterEndpoint::Cut(std::uint64_t peer) {
  Impl& m = *impl_;
  const auto it = m.peers.find(peer);
  if (it == m.peers.end() || std::exchange(it->second.cut, true)) return;
  m.cut.push_back(peer);
  if (m.cut.size() <= kCutMost) return;
  m.Drop(m.peers.find(m.cut.front()));
  m.cut.pop_front();
}

}  // namespace siftd
