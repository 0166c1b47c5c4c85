// SPDX-License-Identifier: Apache-2.0
// siftd_scale_bench: a loader and its trainer rank that keep a pool of fixed-cost workers busy.
// Rank 0 publishes. Says "ready" once it is connected. Standard input then leads all ranks through
// the same times, a line each: go; begin to measure; end, and print what was measured as JSON. It
// ends when standard input does.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "siftd/model_publisher.h"
#include "tests/bench/feeder.h"

namespace siftd::bench {
namespace {

struct Flags {
  std::vector<std::string> endpoints;
  std::uint32_t index = 0;
  std::uint32_t count = 1;
  std::uint64_t run = 0;
  std::int64_t rows = 128;
  std::int64_t features = 16;
};

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::uint64_t ResidentBytes() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return 1024 * std::strtoull(line.c_str() + 6, nullptr, 10);
  }
  return 0;
}

// What the scorer of the pool was exported for: (float32 [n, features], int64 [n]).
std::vector<Tensor> MakeBatch(const Flags& flags) {
  const auto zeroes = [](std::int64_t n, std::size_t size) {
    return Frame::Adopt(std::vector<std::uint8_t>(static_cast<std::size_t>(n) * size));
  };
  return {{"0",
           DType::kFloat32,
           {flags.rows, flags.features},
           zeroes(flags.rows * flags.features, sizeof(float))},
          {"1", DType::kInt64, {flags.rows}, zeroes(flags.rows, sizeof(std::int64_t))}};
}

void Run(const Flags& flags) {
  const ClientOptions client{.endpoints = flags.endpoints};
  Feeder feeder({.client = client,
                 .index = flags.index,
                 .count = flags.count,
                 .run = flags.run,
                 .tensors = MakeBatch(flags)});
  std::unique_ptr<ModelPublisher> publisher;
  if (flags.index == 0) {
    publisher =
        Must(ModelPublisher::Connect({.client = client, .run = feeder.run(), .artifact = {}}));
    const float weight = 0;
    const std::uint64_t version = Must(publisher->Publish(
        0, {{"weight", DType::kFloat32, {1}, Frame::Copy(&weight, sizeof(weight))}}));
    Must(publisher->WaitApplied(version, flags.endpoints.size(), std::chrono::seconds(120)));
  }
  feeder.Start();
  std::printf("ready\n");
  std::fflush(stdout);
  const auto next_line = [] {
    std::string line;
    if (!std::getline(std::cin, line)) std::_Exit(0);
  };
  next_line();
  feeder.Go();
  next_line();
  // From an arrival to an arrival: a part of a batch is not counted.
  feeder.WaitArrived(feeder.arrived());
  const double cpu = CpuSeconds();
  const std::uint64_t first = feeder.arrived();
  const MonoTime begin = Now();
  next_line();
  feeder.WaitArrived(feeder.arrived());
  const std::uint64_t batches = feeder.arrived() - first;
  const double seconds = Seconds(Now() - begin);
  std::printf(
      "{\"batches\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f, \"resident_bytes\": %llu}\n",
      static_cast<unsigned long long>(batches), seconds, CpuSeconds() - cpu,
      static_cast<unsigned long long>(ResidentBytes()));
  std::fflush(stdout);
  std::string end;
  std::getline(std::cin, end);
  // Of several ranks each would wait for the others' ends.
  if (flags.count > 1) std::_Exit(0);
}

}  // namespace
}  // namespace siftd::bench

int main(int argc, char** argv) {
  siftd::bench::Flags flags;
  CLI::App app("A loader and its trainer rank against a pool of fixed-cost workers.");
  app.add_option("--endpoint", flags.endpoints, "Of a worker; each of the pool")->required();
  app.add_option("--index", flags.index, "Of this loader and rank");
  app.add_option("--count", flags.count, "Loaders, as many as ranks");
  app.add_option("--run", flags.run, "The same for all ranks");
  app.add_option("--rows", flags.rows, "Of a candidate batch");
  app.add_option("--features", flags.features, "float32 numbers of each row");
  CLI11_PARSE(app, argc, argv);
  siftd::bench::Run(flags);
}
