// SPDX-License-Identifier: Apache-2.0
// siftd_client_bench trainer|loader ENDPOINT BYTES ROWS BATCH MESSAGES: the C++ clients against a
// siftd_peer_worker. BATCH: rows of a trainer's batch. Prints GB/s and CPU seconds per GB.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "link_clock.h"
#include "siftd/loader_client.h"
#include "siftd/trainer_client.h"

namespace siftd::bench {
namespace {

template <typename T>
T Must(Result<T> result) {
  if (result.ok()) return std::move(result).value();
  std::fprintf(stderr, "siftd_client_bench: %s\n", result.status().message().c_str());
  std::exit(1);
}

LinkRate RunTrainer(const ClientOptions& client, std::uint32_t batch, const LinkLoad& load) {
  TrainerOptions options;
  options.client = client;
  options.batch_size = batch;
  options.run = 1;
  options.steps_per_epoch = load.messages + 1;
  auto trainer = Must(TrainerClient::Connect(options));
  LinkClock clock(load);
  do {
    const TrainerItem item = Must(trainer->Next());
    if (item.batch.tensors.at(0).rows() != batch) std::exit(1);
    trainer->Step();
  } while (clock.Received());
  return clock.rate();
}

LinkRate RunLoader(const ClientOptions& client, std::int64_t rows, const LinkLoad& load) {
  LoaderOptions options;
  options.client = client;
  auto loader = Must(LoaderClient::Connect(options));
  (void)Must(loader->NextPass());
  const Frame bytes = Frame::Adopt(std::vector<std::uint8_t>(load.bytes));
  const std::vector<std::uint64_t> ids(static_cast<std::size_t>(rows));
  LinkClock clock(load);
  std::uint64_t seq = 0;
  do {
    const auto width = static_cast<std::int64_t>(load.bytes) / rows / 4;
    (void)Must(loader->Offer(seq++, ids, {{"0", DType::kFloat32, {rows, width}, bytes}}));
  } while (clock.Received());
  return clock.rate();
}

}  // namespace
}  // namespace siftd::bench

int main(int argc, char** argv) {
  using namespace siftd::bench;
  if (argc != 7) {
    std::fprintf(stderr,
                 "usage: siftd_client_bench trainer|loader ENDPOINT BYTES ROWS BATCH MESSAGES\n");
    return 2;
  }
  siftd::ClientOptions client;
  client.endpoints = {argv[2]};
  const std::int64_t rows = std::atoll(argv[4]);
  const std::int64_t batch = std::atoll(argv[5]);
  const bool trainer = std::string(argv[1]) == "trainer";
  LinkLoad load{std::strtoull(argv[3], nullptr, 10), std::strtoull(argv[6], nullptr, 10)};
  if (trainer)
    load.bytes = load.bytes / static_cast<std::size_t>(rows) * static_cast<std::size_t>(batch);
  const LinkRate rate = trainer ? RunTrainer(client, static_cast<std::uint32_t>(batch), load)
                                : RunLoader(client, rows, load);
  std::printf("%.6f %.6f\n", rate.gigabytes_per_second, rate.cpu_seconds_per_gigabyte);
  return 0;
}
