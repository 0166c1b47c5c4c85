// SPDX-License-Identifier: Apache-2.0
// siftd_link_bench ARM ENDPOINT BYTES MESSAGES: GB/s of one link and CPU seconds per GB, as a line.
// The ARM `candidates` and `selected` (with keys: `candidates-curve`, `selected-curve`) are siftd's
// own: codec and sockets of pipeline/, a header for each message, credit back for each, and acks;
// the others are what they are measured against.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pipeline/net/dealer_pool.h"
#include "pipeline/net/router_endpoint.h"
#include "pipeline/wire/codec.h"
#include "raw_links.h"

namespace siftd::bench {
namespace {

constexpr std::int64_t kRows = 64;
constexpr std::uint64_t kLoaderWindow = 8;  // batches, siftd's defaults
constexpr std::uint64_t kTrainerWindow = 2;
constexpr Duration kWait = std::chrono::seconds(5);

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "siftd_link_bench: %s\n", why.c_str());
  std::exit(1);
}

template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) Die(result.status().message());
  return std::move(result).value();
}

template <typename T>
T Expect(const Frames& frames) {
  Message message = Must(Decode(frames));
  if (T* found = std::get_if<T>(&message)) return std::move(*found);
  Die("another message came");
}

std::vector<Tensor> Payload(std::size_t bytes) {
  return {{"x",
           DType::kUInt8,
           {kRows, static_cast<std::int64_t>(bytes) / kRows},
           Frame::Adopt(std::vector<std::uint8_t>(bytes, 1))}};
}

// A peer's half of either socket.
struct DealerSide {
  DealerPool pool;
  Wakeup wakeup;
  DealerPool::Received received;

  DealerSide(const std::string& endpoint, const std::optional<ClientKeys>& keys) {
    if (keys) pool.UseKeys(*keys);
    (void)Must(pool.Add(endpoint));
  }
  const Frames& Next() {
    while (!pool.Receive(&received)) pool.Poll(kWait, wakeup);
    return received.frames;
  }
  void Send(const Message& message) {
    const Frames frames = Encode(message);
    while (pool.Send(0, frames) != DealerPool::Sent::kSent) pool.Poll(milliseconds(1), wakeup);
  }
};

struct RouterSide {
  RouterEndpoint* router;
  Wakeup wakeup;
  RouterEndpoint::Received received;

  const Frames& Next() {
    while (!router->Receive(&received)) router->Poll(kWait, wakeup);
    return received.frames;
  }
  void Send(const Message& message) {
    if (router->Send(received.peer, Encode(message)) != RouterEndpoint::Sent::kSent)
      Die("the peer is gone");
  }
};

// Keys of both sides, in files that are gone afterwards.
class BenchKeys {
 public:
  explicit BenchKeys(RouterOptions* options) {
    std::string name = "/tmp/siftd-bench-keys-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) Die("no folder for keys");
    folder_ = name;
    for (const char* below : {"/clients", "/clients/loader"})
      mkdir((folder_ + below).c_str(), 0755);
    const CurveKeys worker = Must(MakeCurveKeys());
    client.own = Must(MakeCurveKeys());
    client.worker = worker.public_key;
    options->key_file = folder_ + "/worker.key_secret";
    options->client_keys = folder_ + "/clients";
    Check(WriteSecretKeyFile(options->key_file, "bench", worker, false));
    Check(WritePublicKeyFile(folder_ + "/clients/loader/bench.key", "bench", client.own.public_key,
                             false));
  }
  ~BenchKeys() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  BenchKeys(const BenchKeys&) = delete;
  BenchKeys& operator=(const BenchKeys&) = delete;

  ClientKeys client;

 private:
  static void Check(const Status& status) {
    if (!status.ok()) Die(status.message());
  }

  std::string folder_;
};

// Sends `make(i)` for each message as credit allows; whatever else comes is acks.
template <typename Side, typename Make>
void Feed(Side& side, const LinkLoad& load, const Make& make) {
  std::uint64_t granted = 0;
  for (std::uint64_t sent = 0; sent < load.messages; ++sent) {
    while (granted <= sent) {
      Message message = Must(Decode(side.Next()));
      if (const auto* credit = std::get_if<Credit>(&message)) granted = credit->batches;
    }
    side.Send(make(sent));
  }
}

// Grants `window` messages, and one more for each that came.
template <typename T, typename Side, typename Ack>
LinkRate Take(Side& side, const LinkLoad& load, std::uint64_t window, const Ack& ack) {
  LinkClock clock(load);
  Credit credit{{1, 1}, window, window * load.bytes};
  side.Send(credit);
  bool more = true;
  while (more) {
    const T message = Expect<T>(side.Next());
    if (message.tensors.at(0).bytes.size() != load.bytes) Die("bytes were lost");
    more = clock.Received();
    ack(message);
    credit.batches += 1;
    credit.bytes += load.bytes;
    if (more) side.Send(credit);
  }
  return clock.rate();
}

// A loader's DEALER to a worker's ROUTER.
LinkRate RunCandidates(const RouterOptions& options, const std::optional<ClientKeys>& keys,
                       const LinkLoad& load) {
  auto router = Must(RouterEndpoint::Bind(options));
  std::thread loader([&load, &keys, endpoint = router->BoundEndpoint()] {
    DealerSide side(endpoint, keys);
    Candidates batch{{1, 1}, 2, {0, 0, 0}};
    batch.sample_id.resize(kRows);
    batch.tensors = Payload(load.bytes);
    side.Send(Heartbeat{{1, 1}});  // so that the worker knows its peer
    Feed(side, load, [&batch](std::uint64_t seq) {
      batch.key.seq = seq;
      return Message(batch);
    });
    while (!std::holds_alternative<Heartbeat>(Must(Decode(side.Next())))) {
    }
  });
  RouterSide side{router.get(), {}, {}};
  (void)Expect<Heartbeat>(side.Next());
  const LinkRate rate = Take<Candidates>(side, load, kLoaderWindow, [](const Candidates&) {});
  side.Send(Heartbeat{{1, 1}});
  loader.join();
  return rate;
}

// A worker's ROUTER to a trainer's DEALER.
LinkRate RunSelected(const RouterOptions& options, const std::optional<ClientKeys>& keys,
                     const LinkLoad& load) {
  auto router = Must(RouterEndpoint::Bind(options));
  LinkRate rate;
  std::thread trainer([&load, &rate, &keys, endpoint = router->BoundEndpoint()] {
    DealerSide side(endpoint, keys);
    rate = Take<Selected>(side, load, kTrainerWindow, [&side](const Selected& m) {
      side.Send(Ack{{1, 1}, m.run, {m.key}, {kRows}});
    });
    side.Send(Heartbeat{{1, 1}});
  });
  RouterSide side{router.get(), {}, {}};
  Selected rows{{1, 1}, 2, {0, 0, 0}};
  rows.decision = UnsiftedDecision(kRows);
  rows.decision.outcome = Outcome::kDecided;
  rows.decision.score.assign(kRows, 1);
  rows.decision.keep_probability.assign(kRows, 1);
  rows.decision.percentile.assign(kRows, 1);
  rows.sample_id.resize(kRows);
  rows.tensors = Payload(load.bytes);
  Feed(side, load, [&rows](std::uint64_t seq) {
    rows.key.seq = seq;
    return Message(rows);
  });
  while (!std::holds_alternative<Heartbeat>(Must(Decode(side.Next())))) {
  }
  trainer.join();
  return rate;
}

LinkRate Run(const std::string& arm, const std::string& endpoint, const LinkLoad& load) {
  RouterOptions own;
  own.endpoint = endpoint;
  if (const std::size_t star = own.endpoint.rfind('*'); star != std::string::npos)
    own.endpoint.replace(star, 1, "0");
  if (arm == "candidates") return RunCandidates(own, std::nullopt, load);
  if (arm == "selected") return RunSelected(own, std::nullopt, load);
  if (arm == "candidates-curve" || arm == "selected-curve") {
    const BenchKeys keys(&own);
    return arm == "selected-curve" ? RunSelected(own, keys.client, load)
                                   : RunCandidates(own, keys.client, load);
  }
  if (arm == "push") return RunRaw(RawPattern::kPushPull, endpoint, load);
  if (arm == "dealer") return RunRaw(RawPattern::kDealerRouter, endpoint, load);
  if (arm == "curve") return RunRaw(RawPattern::kPushPullCurve, endpoint, load);
  if (arm == "memfd") return RunMemfd(load);
  Die("ARM is '" + arm +
      "'; allowed: candidates, selected, each with -curve, push, dealer, curve, memfd");
}

}  // namespace
}  // namespace siftd::bench

int main(int argc, char** argv) {
  if (argc != 5) siftd::bench::Die("usage: siftd_link_bench ARM ENDPOINT BYTES MESSAGES");
  const siftd::bench::LinkLoad load{std::strtoull(argv[3], nullptr, 10),
                                    std::strtoull(argv[4], nullptr, 10)};
  const siftd::bench::LinkRate rate = siftd::bench::Run(argv[1], argv[2], load);
  std::printf("%.6f %.6f\n", rate.gigabytes_per_second, rate.cpu_seconds_per_gigabyte);
  return 0;
}
