// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/dealer_pool.h"

#include <random>
#include <utility>

#include "pipeline/net/socket_options.h"

namespace siftd {

namespace {

constexpr int kLingerMs = 200;  // for Goodbyes; a peer that is gone costs its client no more

}  // namespace

struct DealerPool::Impl {
  explicit Impl(const DealerOptions& o) : options(o) {}

  struct Link {
    std::string endpoint;
    std::unique_ptr<zmq::socket_t> socket;
  };

  DealerOptions options;
  zmq::context_t context{1};
  std::vector<Link> links;
  std::vector<zmq::pollitem_t> items;  // scratch
  std::size_t turn = 0;
  std::minstd_rand jitter{std::random_device{}()};

  void Open(Link& link) {
    auto socket = std::make_unique<zmq::socket_t>(context, zmq::socket_type::dealer);
    net::Configure(*socket, {options.max_frame_bytes, options.high_water_mark, 34});
    socket->set(zmq::sockopt::immediate, true);
    // libzmq's own back-off has no jitter once a maximum is set.
    socket->set(zmq::sockopt::reconnect_ivl, 100 + static_cast<int>(jitter() % 100));
    socket->set(zmq::sockopt::reconnect_ivl_max, 5000);
    socket->set(zmq::sockopt::connect_timeout, 3000);
    socket->set(zmq::sockopt::ipv6, link.endpoint.find('[') != std::string::npos);
    socket->connect(link.endpoint);
    link.socket = std::move(socket);
  }
};

DealerPool::DealerPool(const DealerOptions& options) : impl_(std::make_unique<Impl>(options)) {}
DealerPool::~DealerPool() {
  for (Impl::Link& link : impl_->links) link.socket->set(zmq::sockopt::linger, kLingerMs);
}

Result<std::size_t> DealerPool::Add(const std::string& endpoint) {
  try {
    Impl::Link link{endpoint, nullptr};
    impl_->Open(link);
    impl_->links.push_back(std::move(link));
    return impl_->links.size() - 1;
  } catch (const zmq::error_t& e) {
    return InvalidArgument("endpoint is '" + endpoint + "': " + e.what() +
                           "; allowed: tcp://ADDRESS:PORT or ipc://PATH");
  }
}

std::size_t DealerPool::size() const { return impl_->links.size(); }
const std::string& DealerPool::endpoint(std::size_t i) const { return impl_->links[i].endpoint; }
void DealerPool::Reopen(std::size_t i) { impl_->Open(impl_->links[i]); }

void DealerPool::Poll(Duration timeout, const Wakeup& wakeup) {
  auto& items = impl_->items;
  items.clear();
  for (Impl::Link& link : impl_->links) items.push_back({link.socket->handle(), 0, ZMQ_POLLIN, 0});
  items.push_back({nullptr, wakeup.fd(), ZMQ_POLLIN, 0});
  try {
    zmq::poll(items.data(), items.size(), std::chrono::duration_cast<milliseconds>(timeout));
  } catch (const zmq::error_t& e) {
    if (e.num() != EINTR) throw;
  }
}

bool DealerPool::Receive(Received* out) {
  const std::size_t n = impl_->links.size();
  for (std::size_t k = 0; k < n; ++k) {
    const std::size_t i = (impl_->turn + k) % n;
    const auto outcome = net::ReceiveAll(*impl_->links[i].socket, 34, &out->frames);
    if (outcome == net::ReceiveOutcome::kNothing) continue;
    impl_->turn = i + 1;
    out->worker = i;
    out->too_many_frames = outcome == net::ReceiveOutcome::kTooManyFrames;
    return true;
  }
  return false;
}

DealerPool::Sent DealerPool::Send(std::size_t i, const Frames& frames) {
  return net::SendAll(*impl_->links[i].socket, frames) == net::SendOutcome::kSent ? Sent::kSent
                                                                                  : Sent::kNotNow;
}

}  // namespace siftd
