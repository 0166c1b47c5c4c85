// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/dealer_pool.h"

#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <optional>
#include <random>
#include <system_error>
#include <utility>

#include "pipeline/net/handshake_watch.h"
#include "pipeline/net/socket_options.h"

namespace siftd {

namespace {

constexpr int kLingerMs = 200;  // for Goodbyes; a peer that is gone costs its client no more
constexpr int kMaxSockets = 16384;
constexpr Duration kLookEvery = milliseconds(50);  // at handshakes that did not end well yet
constexpr Duration kTryAgain = std::chrono::seconds(2);
constexpr int kEndsBeforeWord = 3;  // connections that ended in the handshake; one may be chance

// Why there is no connection, and what to do about it.
std::string Explain(net::HandshakeWatch::Outcome outcome, const std::optional<ClientKeys>& keys) {
  using Outcome = net::HandshakeWatch::Outcome;
  if (outcome == Outcome::kRefused && keys) {
    return "handshake refused: the worker does not know the key of '" + keys->file +
           "' (public key " + keys->own.public_key +
           "); put its .key file into a folder of the worker's client_keys";
  }
  if (outcome == Outcome::kOtherMechanism) {
    return keys ? "handshake refused: the worker does not encrypt; start it with --key-file and "
                  "--client-keys, or connect without keys"
                : "handshake refused: the worker takes encrypted connections only; give keys "
                  "(made by `siftd keygen client`; SIFTD_KEYS)";
  }
  // Either end may notice first that only one of them encrypts; the other one sees an end.
  if (!keys) {
    return "handshake failed: the connection ends in it; the worker takes encrypted connections "
           "only (then give keys: SIFTD_KEYS), is just ending, or is no siftd worker";
  }
  return "handshake failed: the connection ends in it; '" + keys->worker_file +
         "' is not the public key of the worker there, or that does not encrypt (then start it "
         "with --key-file and --client-keys), or it is just ending";
}

}  // namespace

struct DealerPool::Impl {
  explicit Impl(const DealerOptions& o) : options(o), epoll(epoll_create1(EPOLL_CLOEXEC)) {
    if (epoll < 0) throw std::system_error(errno, std::generic_category(), "epoll_create1");
    // As base/thread.h's StepAside, for libzmq's thread.
    zmq_ctx_set(context.handle(), ZMQ_THREAD_SCHED_POLICY, SCHED_BATCH);
    context.set(zmq::ctxopt::max_sockets, kMaxSockets);  // three per link while it connects
  }
  ~Impl() { close(epoll); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  // libzmq's descriptor of a socket tells that something happened, once; whether a message is there
  // must be asked after that, and after each send, which may have taken the news in.
  struct Link {
    std::string endpoint;
    std::unique_ptr<zmq::socket_t> socket;
    std::unique_ptr<net::HandshakeWatch> watch;  // of `socket`; null once it was connected
    int ends = 0;                                // connections that ended in the handshake
    MonoTime open_again = MonoTime::max();       // libzmq does not, after a refusal
    bool ready = false;                          // in `ready`
    bool asked = false;                          // in `ask`
    bool watched = false;                        // in `watched`
  };

  DealerOptions options;
  std::optional<ClientKeys> keys;
  zmq::context_t context{1};
  std::vector<Link> links;
  const int epoll;
  std::vector<std::size_t> ready;    // links that had messages
  std::vector<std::size_t> ask;      // links that may have some
  std::size_t turn = 0;              // in `ready`
  std::vector<std::size_t> watched;  // links that are not connected yet
  std::vector<Refused> refused;
  std::uint64_t watches = 0;
  MonoTime looked{};
  std::minstd_rand jitter{std::random_device{}()};

  // `at`: number of the link.
  void Open(Link& link, std::size_t at) {
    auto socket = std::make_unique<zmq::socket_t>(context, zmq::socket_type::dealer);
    net::Configure(*socket, {options.max_frame_bytes, options.high_water_mark, 34});
    socket->set(zmq::sockopt::immediate, true);
    // libzmq's own back-off has no jitter once a maximum is set.
    socket->set(zmq::sockopt::reconnect_ivl, 100 + static_cast<int>(jitter() % 100));
    socket->set(zmq::sockopt::reconnect_ivl_max, 5000);
    socket->set(zmq::sockopt::connect_timeout, 3000);
    socket->set(zmq::sockopt::ipv6, link.endpoint.find('[') != std::string::npos);
    if (keys) {
      socket->set(zmq::sockopt::curve_serverkey, keys->worker);
      socket->set(zmq::sockopt::curve_publickey, keys->own.public_key);
      socket->set(zmq::sockopt::curve_secretkey, keys->own.secret_key);
    }
    auto watch = std::make_unique<net::HandshakeWatch>(context, *socket, ++watches);
    socket->connect(link.endpoint);
    // The old one's descriptor lives until libzmq's own thread closes it.
    if (link.socket != nullptr) Watch(EPOLL_CTL_DEL, link.socket->get(zmq::sockopt::fd), 0);
    Watch(EPOLL_CTL_ADD, socket->get(zmq::sockopt::fd), at);
    link.watch.reset();  // before its socket
    link.socket = std::move(socket);
    link.watch = std::move(watch);
    link.open_again = MonoTime::max();
    if (!std::exchange(link.watched, true)) watched.push_back(at);
  }

  // At handshakes that are under way. Its cost grows with the links that are not connected.
  void Look(MonoTime now) {
    if (watched.empty() || now - looked < kLookEvery) return;
    looked = now;
    for (const std::size_t i : std::exchange(watched, {})) {
      links[i].watched = false;
      Look(links[i], i, now);
      const bool pending = links[i].watch != nullptr || links[i].open_again != MonoTime::max();
      if (pending && !std::exchange(links[i].watched, true)) watched.push_back(i);
    }
  }

  void Look(Link& link, std::size_t at, MonoTime now) {
    using Outcome = net::HandshakeWatch::Outcome;
    if (now >= link.open_again) {
      try {
        Open(link, at);
        Ask(at);
      } catch (const std::exception&) {  // no descriptor is left, for example
        link.open_again = now + kTryAgain;
      }
      return;
    }
    while (link.watch != nullptr) {
      const auto outcome = link.watch->Next();
      if (!outcome) return;
      if (*outcome == Outcome::kDone) {
        link.ends = 0;
        link.watch.reset();
      } else if (*outcome == Outcome::kEnded) {  // libzmq tries again by itself
        if (++link.ends % kEndsBeforeWord == 0)
          refused.push_back({at, Explain(*outcome, keys), false});
      } else {
        refused.push_back({at, Explain(*outcome, keys), *outcome != Outcome::kBroken});
        link.open_again = now + kTryAgain;
        link.watch.reset();
      }
    }
  }

  void Watch(int what, int fd, std::uint64_t number) const {
    epoll_event event{.events = EPOLLIN, .data = {.u64 = number}};
    if (epoll_ctl(epoll, what, fd, &event) != 0)
      throw std::system_error(errno, std::generic_category(), "epoll_ctl");
  }

  void Ask(std::size_t i) {
    if (!std::exchange(links[i].asked, true)) ask.push_back(i);
  }

  // Those that Receive left, the next in turn first.
  void AskReady() {
    for (std::size_t k = 0; k < ready.size(); ++k) {
      const std::size_t i = ready[(turn + k) % ready.size()];
      links[i].ready = false;
      Ask(i);
    }
    ready.clear();
    turn = 0;
  }

  void Answer() {
    for (const std::size_t i : ask) {
      Link& link = links[i];
      link.asked = false;
      if (!link.ready && (link.socket->get(zmq::sockopt::events) & ZMQ_POLLIN) != 0) {
        link.ready = true;
        ready.push_back(i);
      }
    }
    ask.clear();
  }
};

DealerPool::DealerPool(const DealerOptions& options) : impl_(std::make_unique<Impl>(options)) {}
DealerPool::~DealerPool() {
  for (Impl::Link& link : impl_->links) link.watch.reset();
  for (Impl::Link& link : impl_->links) link.socket->set(zmq::sockopt::linger, kLingerMs);
}

Result<std::size_t> DealerPool::Add(const std::string& endpoint) {
  try {
    Impl::Link link;
    link.endpoint = endpoint;
    impl_->Open(link, impl_->links.size());
    impl_->links.push_back(std::move(link));
    impl_->Ask(impl_->links.size() - 1);
    return impl_->links.size() - 1;
  } catch (const std::exception& e) {
    return InvalidArgument("endpoint is '" + endpoint + "': " + e.what() +
                           "; allowed: tcp://ADDRESS:PORT or ipc://PATH");
  }
}

void DealerPool::UseKeys(ClientKeys keys) { impl_->keys = std::move(keys); }
std::vector<DealerPool::Refused> DealerPool::TakeRefused() {
  return std::exchange(impl_->refused, {});
}

std::size_t DealerPool::size() const { return impl_->links.size(); }
const std::string& DealerPool::endpoint(std::size_t i) const { return impl_->links[i].endpoint; }
void DealerPool::Reopen(std::size_t i) {
  impl_->Open(impl_->links[i], i);
  impl_->Ask(i);
}

void DealerPool::Poll(Duration timeout, const Wakeup& wakeup) {
  Impl& m = *impl_;
  const MonoTime deadline = Now() + timeout;
  pollfd fds[] = {{m.epoll, POLLIN, 0}, {wakeup.fd(), POLLIN, 0}};
  m.Look(Now());
  m.AskReady();
  m.Answer();
  while (true) {
    const Duration left = m.ready.empty() ? deadline - Now() : Duration::zero();
    const auto ms = std::max<std::int64_t>(0, std::chrono::ceil<milliseconds>(left).count());
    const int woken = poll(fds, 2, static_cast<int>(ms));
    if (woken > 0 && fds[0].revents != 0) {
      std::array<epoll_event, 64> events;  // the rest at the next Poll
      const int n = epoll_wait(m.epoll, events.data(), static_cast<int>(events.size()), 0);
      for (int k = 0; k < n; ++k) m.Ask(events[static_cast<std::size_t>(k)].data.u64);
      m.Answer();
    }
    // Most of what happens to a connection brings no message.
    if (woken <= 0 || !m.ready.empty() || fds[1].revents != 0) return;
  }
}

bool DealerPool::Receive(Received* out) {
  Impl& m = *impl_;
  while (!m.ready.empty()) {
    if (m.turn >= m.ready.size()) m.turn = 0;
    const auto at = m.ready.begin() + static_cast<std::ptrdiff_t>(m.turn);
    Impl::Link& link = m.links[*at];
    const auto outcome = net::ReceiveAll(*link.socket, 34, &out->frames);
    if (outcome == net::ReceiveOutcome::kNothing) {
      link.ready = false;
      m.ready.erase(at);
      continue;
    }
    out->worker = *at;
    out->too_many_frames = outcome == net::ReceiveOutcome::kTooManyFrames;
    ++m.turn;
    return true;
  }
  return false;
}

DealerPool::Sent DealerPool::Send(std::size_t i, const Frames& frames) {
  impl_->Ask(i);
  return net::SendAll(*impl_->links[i].socket, frames) == net::SendOutcome::kSent ? Sent::kSent
                                                                                  : Sent::kNotNow;
}

}  // namespace siftd
