// SPDX-License-Identifier: Apache-2.0
// siftd_verdict_bench ENDPOINT RUN BYTES COUNT: asks a worker for one verdict after the other, as a
// drop-in does, and prints the latency of each in microseconds, one a line.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/net/dealer_pool.h"
#include "pipeline/wire/codec.h"

namespace siftd::bench {
namespace {

constexpr std::int64_t kRows = 64;

class Asker {
 public:
  Asker(const std::string& endpoint, std::uint64_t run) : session_{WallNanos(), 1}, run_(run) {
    if (const auto added = pool_.Add(endpoint); !added.ok()) Die(added.status().message());
  }

  void Begin() {
    Hello hello;
    hello.session = session_;
    hello.role = Role::kLoader;
    hello.job = "bench";
    hello.name = "bench";
    hello.run = run_;
    hello.loader_count = 1;
    hello.has_job_spec = true;
    hello.job_spec.mode = Mode::kVerdicts;
    hello.job_spec.policy.kind = UniformOptions{0.5};
    Send(hello);
    WaitCredit(1);
  }

  // Microseconds from the encoding of the batch to its decoded verdict.
  double Ask(Candidates& batch) {
    WaitCredit(++batch.key.seq + 1);
    batch.session = session_;
    batch.run = run_;
    const MonoTime began = Now();
    Send(batch);
    while (!std::holds_alternative<Verdict>(Next())) {
    }
    return Seconds(Now() - began) * 1e6;
  }

 private:
  [[noreturn]] static void Die(const std::string& why) {
    std::fprintf(stderr, "siftd_verdict_bench: %s\n", why.c_str());
    std::exit(1);
  }

  void WaitCredit(std::uint64_t batches) {
    while (granted_ < batches) (void)Next();
  }

  Message Next() {
    const MonoTime deadline = Now() + std::chrono::seconds(20);
    while (!pool_.Receive(&received_)) {
      if (Now() > deadline) Die("no answer for 20 s");
      pool_.Poll(std::chrono::seconds(1), wakeup_);
    }
    auto message = Decode(received_.frames);
    if (!message.ok()) Die(message.status().message());
    if (const auto* credit = std::get_if<Credit>(&*message)) granted_ = credit->batches;
    if (const auto* error = std::get_if<ErrorMessage>(&*message)) Die(error->text);
    return std::move(message).value();
  }

  void Send(const Message& message) {
    const Frames frames = Encode(message);
    while (pool_.Send(0, frames) != DealerPool::Sent::kSent) pool_.Poll(milliseconds(5), wakeup_);
  }

  const SessionId session_;
  const std::uint64_t run_;
  DealerPool pool_;
  Wakeup wakeup_;
  DealerPool::Received received_;
  std::uint64_t granted_ = 0;
};

}  // namespace
}  // namespace siftd::bench

int main(int argc, char** argv) {
  using namespace siftd;
  if (argc != 5) {
    std::fprintf(stderr, "usage: siftd_verdict_bench ENDPOINT RUN BYTES COUNT\n");
    return 2;
  }
  bench::Asker asker(argv[1], std::strtoull(argv[2], nullptr, 10));
  const std::int64_t bytes = std::atoll(argv[3]);
  const int count = std::atoi(argv[4]);
  Candidates batch;
  for (std::int64_t i = 0; i < bench::kRows; ++i)
    batch.sample_id.push_back(static_cast<std::uint64_t>(i));
  batch.tensors = {{"x",
                    DType::kFloat32,
                    {bench::kRows, bytes / bench::kRows / 4},
                    Frame::Adopt(std::vector<std::uint8_t>(static_cast<std::size_t>(bytes)))},
                   {"y",
                    DType::kInt64,
                    {bench::kRows},
                    Frame::Adopt(std::vector<std::uint8_t>(8 * bench::kRows))}};
  asker.Begin();
  for (int i = 0; i < count / 10; ++i) (void)asker.Ask(batch);
  for (int i = 0; i < count; ++i) std::printf("%.2f\n", asker.Ask(batch));
  return 0;
}
