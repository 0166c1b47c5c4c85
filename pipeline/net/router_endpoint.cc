// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/router_endpoint.h"

#include <poll.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>

#include "pipeline/net/socket_options.h"

namespace siftd {
namespace {

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
  if (!IsPrivate(e) && !options.insecure_plaintext) {
    return InvalidArgument(
        "endpoint is '" + e +
        "', reachable from other hosts without encryption; allowed: a loopback or ipc:// "
        "address, or insecure_plaintext: true on a network that you trust");
  }
  return OkStatus();
}

}  // namespace

struct RouterEndpoint::Impl {
  zmq::context_t context{1};
  zmq::socket_t socket{context, zmq::socket_type::router};
  std::string bound;
  std::optional<net::ConnectionGuard> guard;
  std::uint64_t next_peer = 1;
  std::unordered_map<std::string, std::uint64_t> peer_of;
  std::unordered_map<std::uint64_t, std::string> id_of;
};

RouterEndpoint::RouterEndpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RouterEndpoint::~RouterEndpoint() = default;

Result<std::unique_ptr<RouterEndpoint>> RouterEndpoint::Bind(const RouterOptions& options) {
  SIFTD_RETURN_IF_ERROR(CheckEndpoint(options));
  try {
    auto impl = std::make_unique<Impl>();
    net::Configure(impl->socket, {options.max_frame_bytes, options.high_water_mark, 34});
    impl->socket.set(zmq::sockopt::router_mandatory, true);
    impl->socket.set(zmq::sockopt::backlog, 1024);
    impl->socket.set(zmq::sockopt::ipv6, options.endpoint.find('[') != std::string::npos);
    impl->socket.bind(options.endpoint);
    impl->bound = impl->socket.get(zmq::sockopt::last_endpoint);
    impl->guard.emplace(impl->bound, options.guard);
    return std::unique_ptr<RouterEndpoint>(new RouterEndpoint(std::move(impl)));
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
  constexpr std::size_t kMaxFrames = 34 + 1;  // and the routing id
  int source = -1;
  const net::ReceiveOutcome outcome =
      net::ReceiveAll(impl_->socket, kMaxFrames, &out->frames, &source);
  if (outcome == net::ReceiveOutcome::kNothing) return false;
  impl_->guard->Delivered(source);
  const std::string id(out->frames[0].view());
  const auto [it, fresh] = impl_->peer_of.try_emplace(id, impl_->next_peer);
  if (fresh) impl_->id_of.emplace(impl_->next_peer++, id);
  out->peer = it->second;
  out->frames.erase(out->frames.begin());
  out->too_many_frames = outcome == net::ReceiveOutcome::kTooManyFrames;
  return true;
}

RouterEndpoint::Sent RouterEndpoint::Send(std::uint64_t peer, const Frames& frames) {
  const auto it = impl_->id_of.find(peer);
  if (it == impl_->id_of.end()) return Sent::kUnreachable;
  try {
    zmq::message_t id(it->second.data(), it->second.size());
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
  const auto it = impl_->id_of.find(peer);
  if (it == impl_->id_of.end()) return;
  impl_->peer_of.erase(it->second);
  impl_->id_of.erase(it);
}

}  // namespace siftd
