// SPDX-License-Identifier: Apache-2.0
#include "siftd/loader_client.h"

#include <condition_variable>
#include <mutex>
#include <utility>

#include "pipeline/delivery/loader_core.h"
#include "pipeline/delivery/score_cache.h"
#include "siftd/client_io.h"

namespace siftd {
namespace {

constexpr std::size_t kUnsentMost = 2;  // batches that wait for credit

LoaderCoreOptions CoreOptions(const LoaderOptions& o) {
  LoaderCoreOptions core;
  core.mode = Mode::kSamples;
  core.job = o.client.job;
  core.name = ClientName(o.client.name, "loader");
  core.incarnation = WallNanos();
  core.index = o.index;
  core.count = o.count;
  core.signature = o.signature;
  core.max_batch_bytes = o.max_batch_bytes;
  core.fingerprint = o.fingerprint;
  core.rescore_every = o.rescore_every;
  return core;
}

}  // namespace

Status LoaderOptions::Validate() const {
  SIFTD_RETURN_IF_ERROR(siftd::Validate(client));
  SIFTD_RETURN_IF_ERROR(CheckRange("count", count, 1, 65536));
  SIFTD_RETURN_IF_ERROR(CheckRange("index", index, 0, count - 1));
  SIFTD_RETURN_IF_ERROR(CheckRange("rescore_every", rescore_every, 1, ScoreCache::kMostEvery));
  for (const TensorSpec& spec : signature) {
    if (spec.shape.empty() || spec.shape[0] != -1) {
      return InvalidArgument("signature holds " + ToString(spec) +
                             "; allowed: shapes whose first size is -1, the batch");
    }
  }
  return OkStatus();
}

bool LoaderPass::Wanted(std::uint64_t seq) const {
  for (const DecidedInterval& d : decided) {
    if (seq >= d.begin && seq < d.end) return false;
  }
  return true;
}

struct LoaderClient::Impl {
  explicit Impl(LoaderOptions o)
      : options(std::move(o)),
        core(CoreOptions(options), 0, Now()),
        io(&core, &mu, options.client,
           {[this](MonoTime) { OnTurn(); }, [this](auto& a) { Acted(a); }, {}}) {}

  void OnTurn() {
    if (std::exchange(leaving, false)) core.Leave(Now());
    changed.notify_all();
  }
  void Acted(LoaderActions& actions) {
    if (actions.settled.empty()) return;
    const std::lock_guard lock(mu);
    settled_batches += actions.settled.size();
    progress = Now();
    changed.notify_all();
  }

  bool final_pass(std::uint64_t number) const {
    return options.epochs > 0 && number + 1 >= options.epochs && !position.repeat;
  }
  // Until `ready`; true: a new run's position waits to be taken, or the run is over.
  template <typename Ready>
  Status Wait(std::unique_lock<std::mutex>& lock, const Ready& ready, Duration timeout);
  void Take(LoaderPosition next);
  bool rewound();

  const LoaderOptions options;
  std::mutex mu;
  std::condition_variable changed;
  LoaderCore core;                         // guarded by mu, like all below
  std::optional<LoaderPosition> upcoming;  // of a new run, not begun yet
  LoaderPosition position;
  bool begun = false;  // a position is known
  std::uint64_t next_pass = 0;
  std::uint64_t pass = 0;
  std::uint64_t offered_batches = 0;
  std::uint64_t settled_batches = 0;
  MonoTime progress = Now();
  bool leaving = false;
  ClientIo<LoaderCore> io;
};

bool LoaderClient::Impl::rewound() {
  // Taking it opens the core for offers of the new run, whose first is made after NextPass.
  if (auto next = core.TakePosition()) upcoming = std::move(next);
  return upcoming.has_value();
}

template <typename Ready>
Status LoaderClient::Impl::Wait(std::unique_lock<std::mutex>& lock, const Ready& ready,
                                Duration timeout) {
  progress = Now();
  while (!rewound() && !core.done() && !ready()) {
    if (!core.failure().ok()) return core.failure();
    if (Now() - progress > timeout) {
      return DeadlineExceeded("loader " + std::to_string(options.index) + " made no progress for " +
                              std::to_string(static_cast<long long>(Seconds(timeout))) + " s; it " +
                              core.WaitingFor(Now()));
    }
    changed.wait_for(lock, milliseconds(500));
  }
  return OkStatus();
}

void LoaderClient::Impl::Take(LoaderPosition next) {
  position = std::move(next);
  next_pass = position.next_pass;
  begun = true;
}

LoaderClient::LoaderClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<LoaderClient>> LoaderClient::Connect(LoaderOptions options) {
  SIFTD_RETURN_IF_ERROR(options.Validate());
  auto impl = std::make_unique<Impl>(std::move(options));
  SIFTD_RETURN_IF_ERROR(impl->io.Start("siftd-loader"));
  return std::unique_ptr<LoaderClient>(new LoaderClient(std::move(impl)));
}

LoaderClient::~LoaderClient() {
  {
    const std::lock_guard lock(impl_->mu);
    impl_->leaving = true;
  }
  impl_->io.Stop();
}

Result<std::optional<LoaderPass>> LoaderClient::NextPass() {
  Impl& m = *impl_;
  std::unique_lock lock(m.mu);
  const auto never = [] { return false; };
  if (!m.begun) {
    SIFTD_RETURN_IF_ERROR(m.Wait(lock, never, m.options.start_timeout));
  } else {
    const bool last = m.options.epochs > 0 && m.next_pass >= m.options.epochs && !m.position.repeat;
    const auto open = [&] {
      return !last && (m.next_pass == 0 || m.core.PassAcked(m.next_pass - 1));
    };
    SIFTD_RETURN_IF_ERROR(m.Wait(lock, open, m.options.timeout));
  }
  if (m.upcoming) {
    m.Take(*std::exchange(m.upcoming, std::nullopt));
    if (m.options.epochs > 0 && m.next_pass >= m.options.epochs && !m.position.repeat)
      return std::optional<LoaderPass>();
  } else if (m.core.done()) {
    return std::optional<LoaderPass>();
  }
  LoaderPass pass;
  pass.number = m.pass = m.next_pass;
  pass.epoch = static_cast<std::uint32_t>(pass.number);
  for (const DecidedInterval& d : m.position.decided.intervals) {
    if (d.loader == m.options.index && d.pass == pass.number) pass.decided.push_back(d);
  }
  return std::optional<LoaderPass>(std::move(pass));
}

Result<LoaderClient::Offered> LoaderClient::Offer(std::uint64_t seq,
                                                  std::vector<std::uint64_t> sample_id,
                                                  std::vector<Tensor> tensors,
                                                  std::vector<std::uint32_t> occurrence) {
  Impl& m = *impl_;
  for (const Tensor& tensor : tensors) {
    SIFTD_RETURN_IF_ERROR(siftd::Validate(tensor));
    if (tensor.rows() != static_cast<std::int64_t>(sample_id.size())) {
      return InvalidArgument("tensor '" + tensor.name + "' has " + std::to_string(tensor.rows()) +
                             " rows; allowed: as many as sample_id, " +
                             std::to_string(sample_id.size()));
    }
  }
  std::unique_lock lock(m.mu);
  if (!m.begun) return FailedPrecondition("Offer comes after NextPass");
  SIFTD_RETURN_IF_ERROR(m.Wait(
      lock, [&] { return m.core.unsent() < kUnsentMost; }, m.options.timeout));
  if (m.rewound()) return Offered::kRewind;
  if (m.core.done()) return Offered::kOver;
  Candidates batch;
  batch.key = {m.options.index, m.pass, seq};
  batch.epoch = static_cast<std::uint32_t>(m.pass);
  batch.sample_id = std::move(sample_id);
  batch.occurrence = std::move(occurrence);
  batch.tensors = std::move(tensors);
  SIFTD_RETURN_IF_ERROR(m.core.Offer(std::move(batch), Now()));
  ++m.offered_batches;
  lock.unlock();
  m.io.Wake();
  return Offered::kTaken;
}

Status LoaderClient::EndPass(std::uint64_t batches) {
  Impl& m = *impl_;
  {
    const std::lock_guard lock(m.mu);
    if (!m.begun) return FailedPrecondition("EndPass comes after NextPass");
    if (m.rewound()) return OkStatus();
    m.core.EndPass(m.pass, static_cast<std::uint32_t>(m.pass), batches, m.final_pass(m.pass),
                   Now());
    m.next_pass = m.pass + 1;
  }
  m.io.Wake();
  return OkStatus();
}

LoaderClient::Stats LoaderClient::stats() const {
  const std::lock_guard lock(impl_->mu);
  return {impl_->offered_batches, impl_->settled_batches, impl_->core.outstanding(),
          impl_->core.connected()};
}

}  // namespace siftd
