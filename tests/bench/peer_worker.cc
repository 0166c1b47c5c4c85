// SPDX-License-Identifier: Apache-2.0
// siftd_peer_worker ENDPOINT BYTES ROWS: stands where a worker stands, without scoring, so that
// clients are what is measured. A trainer gets messages of ROWS kept rows of BYTES bytes as its
// credit allows; a loader's batches are settled at once. Prints its endpoint; ends with its input.
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pipeline/net/router_endpoint.h"
#include "pipeline/wire/codec.h"

namespace siftd::bench {
namespace {

constexpr std::uint64_t kRun = 1;
constexpr std::uint64_t kLoaderWindow = 8;
constexpr std::uint64_t kMaxBatchBytes = 64ull << 20;

class Peer {
 public:
  Peer(RouterEndpoint* router, std::uint64_t handle, std::int64_t bytes, std::int64_t rows)
      : router_(router), handle_(handle), bytes_(bytes), rows_(rows) {}

  void Take(Message& message) {
    std::visit(
        [this](auto& m) {
          if constexpr (requires { this->On(m); }) On(m);
        },
        message);
  }

  // What a turn's messages gave: acks and credit at once, as workers do.
  void Flush() {
    if (!settled_.keys.empty()) Send(std::exchange(settled_, {session_, kRun, {}, {}}));
    if (role_ == Role::kLoader && credit_.batches > told_) {
      told_ = credit_.batches;
      Send(credit_);
    }
    for (; sent_ < granted_; ++sent_) {
      rows_message_.key.seq = sent_;
      Send(rows_message_);
    }
  }

 private:
  void On(Hello& hello) {
    session_ = hello.session;
    role_ = hello.role;
    Welcome welcome;
    welcome.session = session_;
    welcome.worker_incarnation = 1;
    welcome.worker_name = "peer";
    welcome.heartbeat_ms = 1000;
    welcome.liveness_ms = 60000;
    welcome.max_frame_bytes = 256 << 20;
    welcome.max_batch_bytes = kMaxBatchBytes;
    welcome.max_rows = 65536;
    welcome.run = kRun;
    Send(welcome);
    if (role_ == Role::kLoader) {
      Position position{session_, kRun, hello.loader_index, {}, 1, true};
      Send(position);
      credit_ = {session_, kLoaderWindow, kLoaderWindow * kMaxBatchBytes};
      settled_ = {session_, kRun, {}, {}};
    } else {
      Prepare(hello.rank);
    }
  }

  void Prepare(std::uint32_t loader) {
    const auto n = static_cast<std::size_t>(rows_);
    Decision& d = rows_message_.decision;
    rows_message_.session = session_;
    rows_message_.run = kRun;
    rows_message_.key.loader = loader;
    rows_message_.sample_id.resize(n);
    d.outcome = Outcome::kDecided;
    d.rows = 2 * static_cast<std::uint32_t>(rows_);
    for (std::uint32_t i = 0; i < n; ++i) d.kept.push_back(2 * i);
    d.score.assign(2 * n, 1.0F);
    d.keep_probability.assign(2 * n, 0.5F);
    d.percentile.assign(2 * n, 0.5F);
    d.column = "loss";
    d.model_version = 1;
    rows_message_.tensors = {
        {"0",
         DType::kFloat32,
         {rows_, bytes_ / rows_ / 4},
         Frame::Adopt(std::vector<std::uint8_t>(static_cast<std::size_t>(bytes_)))},
        {"1", DType::kInt64, {rows_}, Frame::Adopt(std::vector<std::uint8_t>(8 * n))}};
  }

  void On(Credit& m) { granted_ = m.batches; }
  void On(Candidates& m) {
    settled_.keys.push_back(m.key);
    settled_.kept.push_back(static_cast<std::uint32_t>(m.sample_id.size()));
    ++credit_.batches;
    credit_.bytes += kMaxBatchBytes;
  }

  void Send(const Message& message) { (void)router_->Send(handle_, Encode(message)); }

  RouterEndpoint* const router_;
  const std::uint64_t handle_;
  const std::int64_t bytes_;
  const std::int64_t rows_;
  SessionId session_;
  Role role_ = Role::kUnspecified;
  Selected rows_message_;
  Settled settled_;
  Credit credit_;
  std::uint64_t told_ = 0;
  std::uint64_t granted_ = 0;
  std::uint64_t sent_ = 0;
};

bool ParentIsThere() {
  pollfd in{STDIN_FILENO, POLLIN, 0};
  return poll(&in, 1, 0) == 0;
}

int Serve(const RouterOptions& options, std::int64_t bytes, std::int64_t rows) {
  auto router = RouterEndpoint::Bind(options);
  if (!router.ok()) {
    std::fprintf(stderr, "siftd_peer_worker: %s\n", router.status().message().c_str());
    return 1;
  }
  std::printf("%s\n", (*router)->BoundEndpoint().c_str());
  std::fflush(stdout);
  std::unordered_map<std::uint64_t, Peer> peers;
  Wakeup wakeup;
  RouterEndpoint::Received received;
  while (ParentIsThere()) {
    (*router)->Poll(milliseconds(200), wakeup);
    for (int i = 0; i < 64 && (*router)->Receive(&received); ++i) {
      auto message = Decode(received.frames);
      if (!message.ok()) continue;
      peers.try_emplace(received.peer, router->get(), received.peer, bytes, rows)
          .first->second.Take(*message);
    }
    for (auto& [handle, peer] : peers) peer.Flush();
  }
  return 0;
}

}  // namespace
}  // namespace siftd::bench

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: siftd_peer_worker ENDPOINT BYTES ROWS\n");
    return 2;
  }
  siftd::RouterOptions options;
  options.endpoint = argv[1];
  return siftd::bench::Serve(options, std::atoll(argv[2]), std::atoll(argv[3]));
}
