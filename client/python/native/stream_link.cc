// SPDX-License-Identifier: Apache-2.0
#include "client/python/native/stream_link.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "client/python/native/loader_options.h"
#include "pipeline/delivery/assembler.h"
#include "pipeline/delivery/trainer_core.h"
#include "siftd/client_io.h"
#include "siftd/recent_scores.h"

namespace siftd {
namespace {

TrainerCoreOptions CoreOptions(const StreamLink::Options& o) {
  TrainerCoreOptions core;
  core.job = o.hello.job;
  core.name = o.hello.name;
  core.run = o.hello.run;
  core.incarnation = o.hello.session.incarnation;
  core.rank = o.hello.rank;
  core.world = o.hello.world;
  core.loader_count = o.loader_count;
  core.job_spec = o.hello.job_spec;
  core.batch_size = o.batch_size;
  core.window = o.window;
  core.steps_per_epoch = o.endless ? 1 : 0;
  core.decided = o.hello.decided;
  return core;
}

}  // namespace

struct StreamLink::Impl {
  explicit Impl(Options o)
      : options(std::move(o)),
        assembler({options.batch_size, options.drop_last}),
        recent(options.history_length),
        core(CoreOptions(options), 0, Now()),
        io(&core, &mu, WithLog(options.client, [this](const std::string& line) { door.Log(line); }),
           {[this](MonoTime now) { OnTurn(now); }, [this](TrainerActions& a) { TakeIn(a); },
            [this] { HandOn(); }}) {
    recent.Add(options.history);
    next_pass = options.hello.decided.next_pass;
  }

  void OnTurn(MonoTime now) {
    core.SetStep(step);
    if (finishing && !std::exchange(finished, true)) core.Finish(now);
    if (std::exchange(leaving, false)) core.Leave(now);
    served.notify_all();
  }

  // Accepted means taken into memory here, in the order of the core.
  void TakeIn(TrainerActions& actions) {
    if (actions.accepted.empty() && actions.ended.empty()) return;
    const std::lock_guard lock(rows_mu);
    for (Selected& rows : actions.accepted) {
      Decision& d = rows.decision;
      figures.candidates += d.rows;
      ++figures.verdicts;
      figures.Count(d);
      recent.Add(d.score);
      if (d.outcome == Outcome::kRejected && ++figures.rejected_batches == 1)
        door.Warn("siftd: a worker rejected a batch, which is not trained: " + d.text);
      posts.push_back({rows.key, static_cast<std::uint32_t>(d.kept.size())});
      CompleteForRows(d);
      if (const Status status = assembler.Add(std::move(rows)); !status.ok())
        door.Fail(status.message());
    }
    for (const TrainerActions::Ended& ended : actions.ended) {
      for (const EpochEnd& end : ended.passes) Behind(end.loader, end.pass + 1);
      if (!options.endless) assembler.EndEpoch(ended.epoch);
    }
  }

  // What the core knows of it is ahead of the rows that are here. REQUIRES: rows_mu
  void Behind(std::uint32_t loader, std::uint64_t pass) {
    if (loader >= next_pass.size()) next_pass.resize(loader + 1);
    next_pass[loader] = std::max(next_pass[loader], pass);
  }

  void HandOn() {
    std::vector<BatchKey> emptied;
    std::size_t buffered = 0;
    {
      const std::lock_guard lock(rows_mu);
      door.Fill(options.prefetch, std::exchange(posts, {}), [this] { return assembler.Take(); });
      emptied = assembler.TakeEmptied();
      buffered = assembler.buffered_rows();
    }
    if (emptied.empty()) return;
    const std::lock_guard lock(mu);
    core.OnConsumed(emptied, buffered, Now());
    io.Wake();  // the credit goes out in the next turn
  }

  const pid_t process = getpid();
  const Options options;
  Door door;

  // Order: rows_mu, mu, door.mu.
  mutable std::mutex rows_mu;
  Assembler assembler;  // guarded by rows_mu, like the next four
  std::vector<Post> posts;
  std::vector<std::uint64_t>
      next_pass;  // by loader: a lower pass is decided, and its rows are here
  RecentScores recent;
  BatchFigures figures;

  mutable std::mutex mu;
  std::condition_variable served;
  TrainerCore core;  // guarded by mu, like all below
  std::atomic<std::uint64_t> step{0};
  bool finishing = false;
  bool finished = false;
  bool leaving = false;
  ClientIo<TrainerCore> io;
};

StreamLink::StreamLink(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}

StreamLink::~StreamLink() {
  if (getpid() != impl_->process) {
    static_cast<void>(impl_.release());  // its thread is not here, and can't be joined
    return;
  }
  Stop();
}

Status StreamLink::Restore(Selected rows) {
  const std::scoped_lock lock(impl_->rows_mu, impl_->mu);
  SIFTD_RETURN_IF_ERROR(impl_->assembler.Add(std::move(rows)));
  impl_->core.OnConsumed({}, impl_->assembler.buffered_rows(), Now());
  return OkStatus();
}

Status StreamLink::Start() { return impl_->io.Start("siftd-link"); }

void StreamLink::Stop(bool goodbye) {
  {
    const std::lock_guard lock(impl_->mu);
    impl_->leaving = goodbye;
  }
  impl_->io.Stop();
}

Taken StreamLink::Take(std::uint64_t step) {
  impl_->step = step;
  bool wake = false;
  Taken taken = impl_->door.Take(impl_->options.prefetch, &wake);
  if (wake) impl_->io.Wake();
  return taken;
}

void StreamLink::Wait(Duration timeout) { impl_->door.Wait(timeout); }
StreamLink::Position StreamLink::TakePosition() {
  Impl& m = *impl_;
  const std::lock_guard lock(m.rows_mu);
  Position position;
  {
    const std::lock_guard door_lock(m.door.mu);
    position.posts = std::exchange(m.door.posts, {});
    for (const Assembler::Item& item : m.door.ready) {
      if (item.batch) position.untaken.push_back(*item.batch);
    }
  }
  for (const Post& post : std::exchange(m.posts, {})) position.posts.push_back(post);
  for (TrainBatch& batch : m.assembler.Untaken()) position.untaken.push_back(std::move(batch));
  position.next_pass = m.next_pass;
  return position;
}

bool StreamLink::Finish(Duration linger) {
  Impl& m = *impl_;
  const MonoTime deadline = Now() + linger;
  {
    const std::lock_guard door_lock(m.door.mu);
    m.door.ready.clear();
  }
  std::unique_lock lock(m.mu);
  m.finishing = true;
  m.io.Wake();
  const auto over = [&m] { return (m.finished && m.core.Idle()) || !m.core.failure().ok(); };
  while (!over() && Now() < deadline)
    m.served.wait_until(lock, std::min(deadline, Now() + milliseconds(500)));
  return over();
}

StreamLink::Figures StreamLink::figures() const {
  const Impl& m = *impl_;
  const std::scoped_lock lock(m.rows_mu, m.mu);
  Figures f;
  f.batches = m.figures;
  f.workers = m.core.workers();
  f.connected = m.core.connected();
  f.ready = m.door.ready_items();
  f.duplicates = m.core.duplicates();
  f.failure = m.core.failure().ok() ? "" : m.core.failure().message();
  f.waiting_for = m.core.WaitingFor(Now());
  return f;
}

std::vector<float> StreamLink::history() const {
  const std::lock_guard lock(impl_->rows_mu);
  return impl_->recent.Sample();
}

}  // namespace siftd
