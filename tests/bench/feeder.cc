// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/feeder.h"

#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <utility>

namespace siftd::bench {

void Fail(const Status& status) {
  std::fprintf(stderr, "bench: %s\n", status.message().c_str());
  std::_Exit(1);
}

void Must(const Status& status) {
  if (!status.ok()) Fail(status);
}

void PinTo(int core) {
  if (core < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  if (sched_setaffinity(0, sizeof(set), &set) != 0)
    Fail(Unavailable("cannot run on core " + std::to_string(core)));
}

Feeder::Feeder(FeederOptions options)
    : options_(std::move(options)),
      rows_(static_cast<std::size_t>(options_.tensors.front().rows())) {
  TrainerOptions trainer;
  trainer.client = options_.client;
  trainer.batch_size = static_cast<std::uint32_t>(rows_ / 2);
  trainer.rank = options_.index;
  trainer.world = options_.count;
  trainer.loader_count = options_.count;
  // Without end: an epoch's end is for one rank alone to see.
  if (options_.count > 1) trainer.steps_per_epoch = 1u << 30;
  trainer.window = options_.window;
  trainer.run = options_.run;
  trainer.policy.kind = TopKOptions{0.5};
  trainer.linger = std::chrono::seconds(2);
  trainer_ = Must(TrainerClient::Connect(trainer));
}

void Feeder::Start() {
  LoaderOptions loader;
  loader.client = options_.client;
  loader.index = options_.index;
  loader.count = options_.count;
  loader.epochs = 1;
  for (const Tensor& tensor : options_.tensors) loader.max_batch_bytes += tensor.bytes.size();
  loader_ = Must(LoaderClient::Connect(loader));
  train_ = Thread("bench-train", [this] { Train(); });
  offer_ = Thread("bench-offer", [this] { Offer(); });
}

Feeder::~Feeder() {
  {
    const std::lock_guard lock(mu_);
    over_ = true;
  }
  changed_.notify_all();
  offer_.Join();
  train_.Join();
}

void Feeder::Go() {
  {
    const std::lock_guard lock(mu_);
    delays_.clear();
    going_ = true;
  }
  changed_.notify_all();
}

void Feeder::Pause() {
  std::uint64_t offered = 0;
  {
    const std::lock_guard lock(mu_);
    going_ = false;
    offered = offered_at_.size();
  }
  if (offered > 0) WaitArrived(offered - 1);
}

void Feeder::WaitArrived(std::uint64_t batches) const {
  for (std::uint64_t seen = arrived(); seen <= batches; seen = arrived()) arrived_.wait(seen);
}

void Feeder::Offer() {
  const auto pass = Must(loader_->NextPass());
  std::uint64_t seq = 0;
  std::vector<std::uint64_t> ids(rows_);
  while (pass) {
    {
      std::unique_lock lock(mu_);
      changed_.wait(lock, [this] { return going_ || over_; });
      if (over_) break;
      offered_at_.push_back(Now());
    }
    std::iota(ids.begin(), ids.end(), seq * rows_);
    if (Must(loader_->Offer(seq++, ids, options_.tensors)) != LoaderClient::Offered::kTaken) break;
  }
  if (options_.count == 1) Must(loader_->EndPass(seq));
}

void Feeder::Train() {
  while (true) {
    const TrainerItem item = Must(trainer_->Next());
    if (item.kind == TrainerItem::Kind::kRunOver) break;
    if (item.kind != TrainerItem::Kind::kBatch) continue;
    trainer_->Step();
    if (item.batch.spans.size() != 1) Fail(Internal("a batch of more than one key"));
    const std::uint64_t seq = item.batch.spans[0].key.seq;
    {
      const std::lock_guard lock(mu_);
      delays_.push_back({offered_at_[seq], Now()});
    }
    arrived_.fetch_add(1, std::memory_order_release);
    arrived_.notify_all();
  }
}

}  // namespace siftd::bench
