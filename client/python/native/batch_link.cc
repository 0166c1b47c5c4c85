// SPDX-License-Identifier: Apache-2.0
#include "client/python/native/batch_link.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>
#include <utility>

#include "client/python/native/loader_options.h"
#include "client/python/native/starve_breaker.h"
#include "pipeline/delivery/loader_core.h"
#include "siftd/client_io.h"

namespace siftd {
namespace {

constexpr std::size_t kWaitingMost = 4;  // candidates loaded before they are wanted

struct Loaded {
  BatchMaker::Candidate all;
  Candidates scored;
};

// Candidates on their way in, too.
struct TwoWayDoor : Door {
  std::condition_variable room;
  std::optional<std::uint64_t> pass;  // whose candidates are taken
  std::deque<Loaded> waiting;
  std::optional<bool> end;  // of the pass, behind `waiting`; true: flush
};

}  // namespace

struct BatchLink::Impl {
  explicit Impl(Options o)
      : options(std::move(o)),
        core(VerdictsOptions(options.hello), 0, Now()),
        maker(options.batches),
        breaker(options.starve_timeout),
        io(&core, &mu, WithLog(options.client, [this](const std::string& line) { door.Log(line); }),
           {[this](MonoTime now) { OnTurn(now); }, [this](LoaderActions& a) { Acted(a); }, {}}) {
    core.TakePosition();
  }

  void OnTurn(MonoTime now) {
    if (std::exchange(leaving, false)) return core.Leave(now);
    core.SetStep(step);
    Advance(now);
  }

  void Acted(LoaderActions& actions) {
    if (actions.verdicts.empty() && actions.late.empty()) return;
    const std::lock_guard lock(mu);
    for (LoaderActions::Accepted& a : actions.verdicts)
      Check(maker.Decide(a.verdict.key, std::move(a.verdict.decision), Seconds(a.age)));
    late += actions.late.size();
    for (const Duration age : actions.late) {
      if (breaker.Late(age)) door.Warn("siftd: the workers answer in time again: sifting goes on");
    }
    Advance(Now());
    io.Wake();  // what is offered now is sent in the next turn
  }

  // REQUIRES: mu
  void Advance(MonoTime now) {
    HandOn();
    TakeIn(now);
    if (!maker.rejection().empty() && !std::exchange(told_rejection, true)) {
      door.Warn("siftd: a worker could not decide a batch, which is trained unsifted: " +
                maker.rejection());
    }
    const bool starving = door.ready_items() == 0 && maker.undecided() > 0;
    if (breaker.Look(starving, now)) {
      ++breaker_opened;
      char seconds[32];
      std::snprintf(seconds, sizeof(seconds), "%.1f", Seconds(options.starve_timeout));
      door.Warn("siftd: no verdict for " + std::string(seconds) + " s, " +
                std::to_string(core.connected()) +
                " workers connected: batches go out unsifted until they answer again");
    }
    while (breaker.open() && door.ready_items() < options.prefetch) {
      Status status;
      const auto key = maker.PassOldest(&status);
      if (!key) break;
      core.CloseLease(*key, now);
      Check(status);
      HandOn();
      TakeIn(now);
    }
  }

  // Candidates that are wanted, to the core. REQUIRES: mu
  void TakeIn(MonoTime now) {
    while (maker.hungry() && core.unsent() < kUnsentMost) {
      std::unique_lock lock(door.mu);
      if (door.waiting.empty()) {
        if (const auto flush = std::exchange(door.end, std::nullopt)) {
          maker.End(*door.pass, *flush);
          lock.unlock();
          HandOn();
        }
        return;
      }
      Loaded loaded = std::move(door.waiting.front());
      door.waiting.pop_front();
      // Half of them at once: each time that the loading thread wakes up it takes Python's lock.
      if (door.waiting.size() <= kWaitingMost / 2) door.room.notify_one();
      lock.unlock();
      const BatchKey key = loaded.all.key;
      const auto rows = static_cast<std::uint32_t>(loaded.all.sample_id.size());
      maker.Admit(std::move(loaded.all));
      const Status offered = core.Offer(std::move(loaded.scored), now);
      // A failure of all workers is in figures(): the candidate stays undecided.
      if (offered.ok() || !core.failure().ok()) continue;
      Check(maker.Decide(key, RejectedDecision(rows, ErrorCode::kInternal, offered.message()), 0));
      HandOn();
    }
  }

  // Batches and posts, to whoever takes them. REQUIRES: mu
  void HandOn() {
    door.Fill(options.prefetch, maker.TakePosts(), [this] { return maker.Take(); });
  }

  void Check(const Status& status) {
    if (!status.ok()) door.Fail(status.message());
  }

  const pid_t process = getpid();
  const Options options;
  TwoWayDoor door;
  mutable std::mutex mu;  // taken before door.mu
  LoaderCore core;        // guarded by mu, like all below
  BatchMaker maker;
  StarveBreaker breaker;
  std::uint64_t breaker_opened = 0;
  std::uint64_t late = 0;
  std::atomic<std::uint64_t> step{0};
  bool told_rejection = false;
  bool leaving = false;
  ClientIo<LoaderCore> io;
};

BatchLink::BatchLink(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}

BatchLink::~BatchLink() {
  if (getpid() != impl_->process) {
    static_cast<void>(impl_.release());  // its thread is not here, and can't be joined
    return;
  }
  Stop();
}

Status BatchLink::Start() { return impl_->io.Start("siftd-link"); }

void BatchLink::Stop(bool goodbye) {
  {
    const std::lock_guard lock(impl_->mu);
    impl_->leaving = goodbye;
    const std::lock_guard door_lock(impl_->door.mu);
    impl_->door.pass.reset();  // nobody waits for room any more
    impl_->door.end.reset();
    impl_->door.room.notify_all();
  }
  impl_->io.Stop();
}

void BatchLink::Begin(std::uint64_t pass) {
  const std::lock_guard lock(impl_->door.mu);
  impl_->door.pass = pass;
  impl_->door.end.reset();
}

BatchLink::Offered BatchLink::Offer(BatchMaker::Candidate& all, Candidates& scored,
                                    Duration timeout) {
  TwoWayDoor& door = impl_->door;
  {
    std::unique_lock lock(door.mu);
    const auto wanted = [&] { return door.pass == all.key.pass; };
    door.room.wait_for(lock, timeout,
                       [&] { return !wanted() || door.waiting.size() < kWaitingMost; });
    if (!wanted()) return Offered::kNotWanted;
    if (door.waiting.size() >= kWaitingMost) return Offered::kFull;
    door.waiting.push_back({std::move(all), std::move(scored)});
    if (door.waiting.size() > 1) return Offered::kTaken;  // the one before woke the I/O thread
  }
  impl_->io.Wake();
  return Offered::kTaken;
}

void BatchLink::End(std::uint64_t pass, bool flush) {
  {
    const std::lock_guard lock(impl_->door.mu);
    if (impl_->door.pass != pass) return;
    impl_->door.end = flush;
  }
  impl_->io.Wake();
}

void BatchLink::Cancel() {
  const std::lock_guard lock(impl_->mu);
  const std::lock_guard door_lock(impl_->door.mu);
  TwoWayDoor& door = impl_->door;
  std::size_t rows = 0;
  for (const BatchMaker::Item& item : door.ready) rows += item.batch ? item.batch->rows() : 0;
  impl_->maker.CountCancelled(rows);
  if (door.pass) impl_->core.CancelPass(*door.pass, Now());
  impl_->maker.Cancel();
  door.pass.reset();
  door.waiting.clear();
  door.end.reset();
  door.ready.clear();
  door.posts.clear();
  door.error.clear();
  door.room.notify_all();
}

Status BatchLink::Restore(Selected rows) {
  const std::lock_guard lock(impl_->mu);
  return impl_->maker.Restore(std::move(rows));
}

Taken BatchLink::Take(std::uint64_t step) {
  impl_->step = step;
  bool wake = false;
  Taken taken = impl_->door.Take(impl_->options.prefetch, &wake);
  if (wake) impl_->io.Wake();
  return taken;
}

void BatchLink::Wait(Duration timeout) { impl_->door.Wait(timeout); }

std::vector<TrainBatch> BatchLink::Untaken() const {
  const std::lock_guard lock(impl_->mu);
  std::vector<TrainBatch> found;
  {
    const std::lock_guard door_lock(impl_->door.mu);
    for (const BatchMaker::Item& item : impl_->door.ready) {
      if (item.batch) found.push_back(*item.batch);
    }
  }
  for (TrainBatch& batch : impl_->maker.Untaken()) found.push_back(std::move(batch));
  return found;
}

std::vector<float> BatchLink::history() const {
  const std::lock_guard lock(impl_->mu);
  return impl_->maker.history();
}

BatchLink::Figures BatchLink::figures() const {
  const Impl& m = *impl_;
  const std::lock_guard lock(m.mu);
  Figures f;
  f.batches = m.maker.figures();
  f.workers = m.core.workers();
  f.connected = m.core.connected();
  f.outstanding = m.maker.undecided();
  f.ready = m.door.ready_items();
  f.late_verdicts = m.late;
  f.duplicates = m.core.late_verdicts() - m.late;
  f.breaker_opened = m.breaker_opened;
  f.breaker_open = m.breaker.open();
  f.failure = m.core.failure().ok() ? "" : m.core.failure().message();
  return f;
}

}  // namespace siftd
