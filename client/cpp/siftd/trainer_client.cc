// SPDX-License-Identifier: Apache-2.0
#include "siftd/trainer_client.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "pipeline/delivery/assembler.h"
#include "pipeline/delivery/train_progress.h"
#include "pipeline/delivery/trainer_core.h"
#include "siftd/client_io.h"
#include "siftd/recent_scores.h"

namespace siftd {
namespace {

TrainerCoreOptions CoreOptions(const TrainerOptions& o) {
  TrainerCoreOptions core;
  core.job = o.client.job;
  core.name = ClientName(o.client.name, "trainer");
  core.run = o.run;
  core.incarnation = WallNanos();
  core.rank = o.rank;
  core.world = o.world;
  core.loader_count = o.loader_count;
  core.job_spec.mode = Mode::kSamples;
  core.job_spec.policy = o.policy;
  core.job_spec.seed = o.seed;
  core.job_spec.total_steps = o.total_steps;
  core.job_spec.max_staleness_steps = o.max_staleness_steps;
  core.job_spec.stale_unsifted = o.max_staleness_steps > 0;
  core.batch_size = o.batch_size;
  core.window = o.window;
  core.steps_per_epoch = o.steps_per_epoch;
  if (o.resume) core.decided = o.resume->decided;
  return core;
}

std::size_t HistoryLength(const PolicyOptions& policy) {
  const auto* loss_cdf = std::get_if<LossCdfOptions>(&policy.kind);
  return loss_cdf == nullptr ? 0 : loss_cdf->loss_history_length;
}

TrainerOptions Completed(TrainerOptions options) {
  if (options.run == 0) options.run = WallNanos();
  return options;
}

Status SameShape(const TrainerState& state, const TrainerOptions& o) {
  const auto same = [](const char* name, std::uint64_t saved, std::uint64_t now) {
    return saved == now ? OkStatus()
                        : InvalidArgument("resume was saved with " + std::string(name) + " " +
                                          std::to_string(saved) + "; allowed: this job's, " +
                                          std::to_string(now));
  };
  SIFTD_RETURN_IF_ERROR(same("rank", state.rank, o.rank));
  SIFTD_RETURN_IF_ERROR(same("world", state.world, o.world));
  SIFTD_RETURN_IF_ERROR(same("loader_count", state.loader_count, o.loader_count));
  return same("batch_size", state.batch_size, o.batch_size);
}

}  // namespace

Status TrainerOptions::Validate() const {
  SIFTD_RETURN_IF_ERROR(siftd::Validate(client));
  SIFTD_RETURN_IF_ERROR(CheckRange("batch_size", batch_size, 1, 1u << 20));
  SIFTD_RETURN_IF_ERROR(CheckRange("world", world, 1, 65536));
  SIFTD_RETURN_IF_ERROR(CheckRange("rank", rank, 0, world - 1));
  SIFTD_RETURN_IF_ERROR(CheckRange("loader_count", loader_count, world, 65536));
  SIFTD_RETURN_IF_ERROR(CheckRange("window", window, 1, 1024));
  SIFTD_RETURN_IF_ERROR(CheckRange("prefetch", prefetch, 1, 1024));
  if (world > 1 && steps_per_epoch == 0) {
    return InvalidArgument(
        "steps_per_epoch is 0; allowed where world > 1: 1 or more, so that all ranks make equal "
        "steps");
  }
  if (world > 1 && run == 0) {
    return InvalidArgument(
        "run is 0; allowed where world > 1: one id for all ranks, newer at each start");
  }
  if (resume) SIFTD_RETURN_IF_ERROR(SameShape(*resume, *this));
  return OkStatus();
}

struct TrainerClient::Impl {
  explicit Impl(TrainerOptions o)
      : options(Completed(std::move(o))),
        assembler({options.batch_size, options.drop_last}),
        core(CoreOptions(options), 0, Now()),
        recent(HistoryLength(options.policy)),
        io(&core, &mu, options.client,
           {[this](MonoTime now) { OnTurn(now); }, [this](TrainerActions& a) { TakeIn(a); },
            [this] { Assemble(); }}) {}

  bool lockstep() const { return options.steps_per_epoch == 0; }
  Status Restore();
  // On the I/O thread.
  void OnTurn(MonoTime now);
  void TakeIn(TrainerActions& actions);
  void Assemble();
  // Rows that Next did not give: their keys, oldest first, and those of one of these. REQUIRES:
  // both mutexes
  std::vector<BatchKey> UntakenKeys() const;
  Selected UntakenRows(const BatchKey& key) const;

  const TrainerOptions options;

  // Order of the two mutexes: rows_mu, then mu. Rows are copied under rows_mu alone, so Next never
  // waits for that.
  mutable std::mutex rows_mu;
  Assembler assembler;  // guarded by rows_mu

  mutable std::mutex mu;
  std::condition_variable changed;
  TrainerCore core;               // guarded by mu, like all below
  std::deque<TrainerItem> ready;  // assembled, not given yet
  std::size_t ready_batches = 0;
  RecentScores recent;
  TrainProgress progress;
  Status failure;          // rows that cannot be assembled
  bool all_final = false;  // no further row will be accepted
  bool run_over = false;   // and `ready` holds all that there was
  bool finishing = false;
  bool finished = false;
  bool leaving = false;
  std::uint64_t steps = 0;
  std::uint64_t epoch_steps = 0;
  std::uint32_t epoch = 0;  // steps_per_epoch: counted here
  Stats counted;
  std::string waiting_for;

  ClientIo<TrainerCore> io;
};

Status TrainerClient::Impl::Restore() {
  if (!options.resume) return OkStatus();
  const TrainerState& state = *options.resume;
  steps = state.steps;
  core.SetStep(steps);
  progress =
      TrainProgress(state.decided, state.half ? std::optional(state.half->key) : std::nullopt);
  if (state.half) SIFTD_RETURN_IF_ERROR(assembler.Add(*state.half));
  for (const Selected& rows : state.carried) SIFTD_RETURN_IF_ERROR(assembler.Add(rows));
  if (assembler.buffered_rows() > 0) core.OnConsumed({}, assembler.buffered_rows(), Now());
  return OkStatus();
}

void TrainerClient::Impl::OnTurn(MonoTime now) {
  core.SetStep(steps);
  if (finishing && !std::exchange(finished, true)) core.Finish(now);
  if (std::exchange(leaving, false)) core.Leave(now);
  waiting_for = ready.empty() ? core.WaitingFor(now) : "";
  changed.notify_all();
}

// Accepted means taken into memory here, in the order of the core.
void TrainerClient::Impl::TakeIn(TrainerActions& actions) {
  if (actions.accepted.empty() && actions.ended.empty()) return;
  const std::lock_guard rows_lock(rows_mu);
  for (Selected& rows : actions.accepted) {
    const Decision& d = rows.decision;
    {
      const std::lock_guard lock(mu);
      counted.candidates += d.rows;
      counted.kept += d.kept.size();
      if (d.outcome == Outcome::kUnsifted) counted.unsifted += d.kept.size();
      if (d.outcome == Outcome::kRejected) ++counted.rejected_batches;
      if (d.kept.empty()) progress.Empty(rows.key);
      recent.Add(d.score);
    }
    if (const Status status = assembler.Add(std::move(rows)); !status.ok()) {
      const std::lock_guard lock(mu);
      if (failure.ok()) failure = status;
    }
  }
  const std::lock_guard lock(mu);
  for (TrainerActions::Ended& ended : actions.ended) {
    if (lockstep()) assembler.EndEpoch(ended.epoch);
    progress.PassesEnded(std::move(ended.passes), lockstep());
  }
  if (core.AllFinal() && !std::exchange(all_final, true)) assembler.Finish();
}

void TrainerClient::Impl::Assemble() {
  const std::lock_guard rows_lock(rows_mu);
  const std::lock_guard lock(mu);
  while (ready_batches < options.prefetch) {
    std::optional<Assembler::Item> next = assembler.Take();
    if (!next) {
      run_over = all_final;
      break;
    }
    TrainerItem item;
    item.kind = next->batch ? TrainerItem::Kind::kBatch : TrainerItem::Kind::kEpochOver;
    item.epoch = next->epoch;
    if (next->batch) {
      item.batch = *std::move(next->batch);
      ++ready_batches;
    }
    ready.push_back(std::move(item));
  }
  const std::vector<BatchKey> emptied = assembler.TakeEmptied();
  if (!emptied.empty()) {
    core.OnConsumed(emptied, assembler.buffered_rows(), Now());
    io.Wake();  // the credit goes out in the next turn
  }
  counted.dropped_rows = assembler.dropped_rows();
  if (!ready.empty() || run_over) changed.notify_all();
}

std::vector<BatchKey> TrainerClient::Impl::UntakenKeys() const {
  std::vector<BatchKey> keys;
  const auto add = [&keys](const TrainBatch& batch) {
    for (const RowSpan& span : batch.spans) {
      if (keys.empty() || keys.back() != span.key) keys.push_back(span.key);
    }
  };
  for (const TrainerItem& item : ready) add(item.batch);
  for (const TrainBatch& batch : assembler.Untaken()) add(batch);
  return keys;
}

Selected TrainerClient::Impl::UntakenRows(const BatchKey& key) const {
  std::vector<Selected> pieces;
  for (const TrainerItem& item : ready) {
    Selected rows = ExtractRows(item.batch, key);
    if (!rows.sample_id.empty()) pieces.push_back(std::move(rows));
  }
  Selected rest = assembler.RowsOf(key);
  if (!rest.sample_id.empty()) pieces.push_back(std::move(rest));
  return JoinRows(std::move(pieces));
}

TrainerClient::TrainerClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<TrainerClient>> TrainerClient::Connect(TrainerOptions options) {
  SIFTD_RETURN_IF_ERROR(options.Validate());
  auto impl = std::make_unique<Impl>(std::move(options));
  SIFTD_RETURN_IF_ERROR(impl->Restore());
  SIFTD_RETURN_IF_ERROR(impl->io.Start("siftd-trainer"));
  return std::unique_ptr<TrainerClient>(new TrainerClient(std::move(impl)));
}

TrainerClient::~TrainerClient() {
  {
    const std::lock_guard lock(impl_->mu);
    impl_->leaving = true;
  }
  impl_->io.Stop();
}

std::uint64_t TrainerClient::run() const { return impl_->options.run; }

Result<TrainerItem> TrainerClient::Next() {
  Impl& m = *impl_;
  const MonoTime began = Now();
  std::unique_lock lock(m.mu);
  TrainerItem item;
  if (m.options.steps_per_epoch > 0 && m.epoch_steps == m.options.steps_per_epoch) {
    m.epoch_steps = 0;
    item.kind = TrainerItem::Kind::kEpochOver;
    item.epoch = m.epoch++;
    return item;
  }
  while (m.ready.empty()) {
    if (m.finishing || m.run_over) {
      item.kind = TrainerItem::Kind::kRunOver;
      return item;
    }
    if (!m.failure.ok()) return m.failure;
    if (!m.core.failure().ok()) return m.core.failure();
    if (Now() - began > m.options.timeout) {
      return DeadlineExceeded("no batch for " +
                              std::to_string(static_cast<long long>(Seconds(m.options.timeout))) +
                              " s; rank " + std::to_string(m.options.rank) + " " + m.waiting_for);
    }
    m.changed.wait_for(lock, milliseconds(500));
  }
  item = std::move(m.ready.front());
  m.ready.pop_front();
  m.counted.wait_seconds += Seconds(Now() - began);
  if (item.kind == TrainerItem::Kind::kBatch) {
    --m.ready_batches;
    ++m.counted.batches;
    ++m.epoch_steps;
    m.progress.Trained(item.batch.spans);
  } else {
    m.progress.EpochOver();
  }
  lock.unlock();
  m.io.Wake();
  return item;
}

void TrainerClient::Step() {
  const std::lock_guard lock(impl_->mu);
  ++impl_->steps;
}

std::vector<float> TrainerClient::recent_scores() const {
  const std::lock_guard lock(impl_->mu);
  return impl_->recent.Sample();
}

TrainerState TrainerClient::State() const {
  const Impl& m = *impl_;
  const std::scoped_lock lock(m.rows_mu, m.mu);
  TrainerState state;
  state.decided = m.progress.Decided();
  state.steps = m.steps;
  state.rank = m.options.rank;
  state.world = m.options.world;
  state.loader_count = m.options.loader_count;
  state.batch_size = m.options.batch_size;
  const DecidedKeys behind(state.decided);
  for (const BatchKey& key : m.UntakenKeys()) {
    if (m.progress.half() == key) {
      state.half = m.UntakenRows(key);
    } else if (behind.Closed(key.loader, key.pass)) {
      state.carried.push_back(m.UntakenRows(key));
    }
  }
  return state;
}

void TrainerClient::Finish() {
  Impl& m = *impl_;
  const MonoTime deadline = Now() + m.options.linger;
  std::unique_lock lock(m.mu);
  m.finishing = true;
  m.ready.clear();
  m.ready_batches = 0;
  lock.unlock();
  m.io.Wake();
  lock.lock();
  while (!(m.finished && m.core.Idle()) && m.core.failure().ok() && Now() < deadline)
    m.changed.wait_until(lock, std::min(deadline, Now() + milliseconds(500)));
}

TrainerClient::Stats TrainerClient::stats() const {
  const std::lock_guard lock(impl_->mu);
  Stats stats = impl_->counted;
  stats.duplicates = impl_->core.duplicates();
  stats.workers = impl_->core.connected();
  return stats;
}

}  // namespace siftd
