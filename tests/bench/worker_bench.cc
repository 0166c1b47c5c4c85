// SPDX-License-Identifier: Apache-2.0
// siftd_worker_bench: samples/s through a running worker against a bare loop of the same scorer.
// In turn, for each round: the bare loop on the worker's core (the worker is idle), the worker fed
// from the client's core, the worker fed while its weights are swapped. Prints JSON.
#include <ATen/Parallel.h>
#include <time.h>
#include <torch/script.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "siftd/model_publisher.h"
#include "siftd/torch_bridge.h"
#include "tests/bench/feeder.h"

namespace siftd::bench {
namespace {

struct Flags {
  std::string artifact;
  std::string endpoint;
  std::int64_t rows = 128;
  std::string device = "cpu";
  int rounds = 3;
  double seconds = 2;
  double swap_seconds = 1;
  int client_core = -1;
  int worker_core = -1;
  int worker_pid = 0;
};

// CPU seconds of a process, by its clock.
double CpuSeconds(clockid_t clock) {
  timespec t{};
  if (clock_gettime(clock, &t) != 0) return 0;
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double CpuSecondsOf(int pid) {
  clockid_t clock{};
  return clock_getcpuclockid(pid, &clock) == 0 ? CpuSeconds(clock) : 0;
}

// Of the manifest's inputs: zeroes for integers, noise for the rest. Free sizes are refused.
std::vector<Tensor> MakeBatch(const ArtifactManifest& manifest, std::int64_t rows) {
  std::vector<Tensor> batch;
  for (const TensorSpec& spec : manifest.inputs) {
    std::vector<std::int64_t> shape = spec.shape;
    shape[0] = rows;
    if (std::count(shape.begin(), shape.end(), -1) > 0)
      Fail(InvalidArgument("input '" + spec.name + "' has a free size"));
    const bool floating = spec.dtype == DType::kFloat32;
    const at::Tensor values = floating ? at::randn(shape) : at::zeros(shape, at::kLong);
    batch.push_back(Must(FromTorch(values, spec.name)));
  }
  return batch;
}

struct Rate {
  double rows_per_second = 0;
  double ms = 0;      // wall time of a batch
  double cpu_ms = 0;  // CPU time of a batch
};

// From the host's memory into it, as a worker does; on the CPU nothing is copied.
std::vector<at::Tensor> Forward(TorchScorer& scorer, const std::vector<at::Tensor>& rows,
                                at::Device device) {
  std::vector<c10::IValue> inputs;
  for (const at::Tensor& t : rows) inputs.emplace_back(t.to(device, /*non_blocking=*/true));
  const c10::IValue output = scorer.module.forward(inputs);
  std::vector<at::Tensor> columns;
  if (output.isTensor()) return {output.toTensor().to(at::kCPU)};
  for (const c10::IValue& column : output.toTupleRef().elements())
    columns.push_back(column.toTensor().to(at::kCPU));
  return columns;
}

// A batch's rows are copied into one tensor in both arms: here by the bridge, there by the worker.
Rate RunBare(TorchScorer& scorer, const std::vector<Tensor>& batch, const Flags& flags) {
  Rate rate;
  Thread loop("bench-bare", [&] {
    PinTo(flags.worker_core);
    at::set_num_threads(1);
    const c10::InferenceMode inference;
    const at::Device device(flags.device);
    std::vector<at::Tensor> rows;
    for (const Tensor& tensor : batch) {
      rows.push_back(ToTorch(tensor));
      if (device.is_cuda()) rows.back() = rows.back().pin_memory();
    }
    for (int i = 0; i < 5; ++i) Forward(scorer, rows, device);
    const MonoTime begin = Now();
    const double cpu = CpuSeconds(CLOCK_THREAD_CPUTIME_ID);
    std::uint64_t forwards = 0;
    MonoTime end = begin;
    for (; Seconds(end - begin) < flags.seconds; ++forwards) {
      Forward(scorer, rows, device);
      end = Now();
    }
    const auto n = static_cast<double>(forwards);
    const double each = Seconds(end - begin) / n;
    rate = {static_cast<double>(flags.rows) / each, 1e3 * each,
            1e3 * (CpuSeconds(CLOCK_THREAD_CPUTIME_ID) - cpu) / n};
  });
  loop.Join();
  return rate;
}

struct Swap {
  MonoTime published;
  MonoTime applied;
};

// Swaps the weights every swap_seconds if there is a publisher; `swaps` gets when.
Rate RunWorker(Feeder& feeder, const Flags& flags, ModelPublisher* publisher,
               const std::vector<Tensor>& weights, std::vector<Swap>* swaps) {
  feeder.Go();
  feeder.WaitArrived(feeder.arrived() + 16);
  const std::uint64_t first = feeder.arrived();
  const MonoTime begin = Now();
  const double cpu = CpuSecondsOf(flags.worker_pid);
  const auto seconds = [](double s) {
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(s));
  };
  if (publisher != nullptr) {
    for (int k = 1; k * flags.swap_seconds < flags.seconds; ++k) {
      std::this_thread::sleep_until(begin + seconds((k - 0.5) * flags.swap_seconds));
      Swap swap{Now(), {}};
      const std::uint64_t version = Must(publisher->Publish(feeder.arrived(), weights));
      Must(publisher->WaitApplied(version, 1, std::chrono::seconds(30)));
      swap.applied = Now();
      swaps->push_back(swap);
    }
  }
  std::this_thread::sleep_until(begin + seconds(flags.seconds));
  feeder.WaitArrived(feeder.arrived());
  const auto batches = static_cast<double>(feeder.arrived() - first);
  const double each = Seconds(Now() - begin) / batches;
  const double cpu_each = (CpuSecondsOf(flags.worker_pid) - cpu) / batches;
  feeder.Pause();
  return {static_cast<double>(feeder.rows()) / each, 1e3 * each, 1e3 * cpu_each};
}

double Ms(const Feeder::Delay& d) { return 1e3 * Seconds(d.arrived - d.offered); }

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The largest delay of the batches that were under way while a version was on its way.
std::vector<double> DelaysAtSwaps(const std::vector<Feeder::Delay>& delays,
                                  const std::vector<Swap>& swaps) {
  std::vector<double> worst;
  for (const Swap& swap : swaps) {
    double most = 0;
    for (const Feeder::Delay& d : delays) {
      if (d.offered < swap.applied && d.arrived > swap.published) most = std::max(most, Ms(d));
    }
    if (most > 0) worst.push_back(most);
  }
  return worst;
}

void PrintList(const char* name, const std::vector<double>& values, const char* after) {
  std::printf("\"%s\": [", name);
  for (std::size_t i = 0; i < values.size(); ++i)
    std::printf("%s%.6g", i > 0 ? ", " : "", values[i]);
  std::printf("]%s", after);
}

void Run(const Flags& flags) {
  PinTo(flags.client_core);
  at::set_num_threads(1);
  TorchScorer scorer = Must(TorchScorer::Load(flags.artifact, at::Device(flags.device)));
  const std::vector<Tensor> batch = MakeBatch(scorer.manifest, flags.rows);
  const std::vector<Tensor> weights = Must(scorer.Weights());
  const ClientOptions client{.endpoints = {flags.endpoint}};
  Feeder feeder({.client = client, .tensors = batch});
  const auto publisher =
      Must(ModelPublisher::Connect({.client = client, .run = feeder.run(), .artifact = {}}));
  const std::uint64_t version = Must(publisher->Publish(0, weights));
  Must(publisher->WaitApplied(version, 1, std::chrono::seconds(30)));
  feeder.Start();

  std::vector<double> bare, forward, forward_cpu, worker, worker_cpu, swapping, quiet_delay,
      swap_delay;
  for (int round = 0; round < flags.rounds; ++round) {
    const Rate alone = RunBare(scorer, batch, flags);
    bare.push_back(alone.rows_per_second);
    forward.push_back(alone.ms);
    forward_cpu.push_back(alone.cpu_ms);
    const Rate whole = RunWorker(feeder, flags, nullptr, weights, nullptr);
    worker.push_back(whole.rows_per_second);
    worker_cpu.push_back(whole.cpu_ms);
    std::vector<double> delays;
    for (const Feeder::Delay& d : feeder.delays()) delays.push_back(Ms(d));
    quiet_delay.push_back(Median(delays));
    std::vector<Swap> swaps;
    swapping.push_back(RunWorker(feeder, flags, publisher.get(), weights, &swaps).rows_per_second);
    for (const double ms : DelaysAtSwaps(feeder.delays(), swaps)) swap_delay.push_back(ms);
  }
  std::printf("{");
  PrintList("bare", bare, ", ");
  PrintList("forward_ms", forward, ", ");
  PrintList("forward_cpu_ms", forward_cpu, ", ");
  PrintList("worker", worker, ", ");
  PrintList("worker_cpu_ms", worker_cpu, ", ");
  PrintList("swapping", swapping, ", ");
  PrintList("delay_ms", quiet_delay, ", ");
  PrintList("swap_delay_ms", swap_delay, "}\n");
}

}  // namespace
}  // namespace siftd::bench

int main(int argc, char** argv) {
  siftd::bench::Flags flags;
  CLI::App app("Samples/s through a worker against a bare loop of its scorer.");
  app.add_option("--artifact", flags.artifact)->required();
  app.add_option("--endpoint", flags.endpoint, "Of a worker on --worker-core")->required();
  app.add_option("--device", flags.device, "Of the worker and of the bare loop: cpu or cuda:N");
  app.add_option("--rows", flags.rows, "Of a candidate batch");
  app.add_option("--rounds", flags.rounds);
  app.add_option("--seconds", flags.seconds, "Of each arm of a round");
  app.add_option("--swap-seconds", flags.swap_seconds, "Between two versions of the weights");
  app.add_option("--client-core", flags.client_core);
  app.add_option("--worker-core", flags.worker_core);
  app.add_option("--worker-pid", flags.worker_pid)->required();
  CLI11_PARSE(app, argc, argv);
  siftd::bench::Run(flags);
}
