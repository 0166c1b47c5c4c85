// SPDX-License-Identifier: Apache-2.0
#include "client/python/native/loader_link.h"

#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <utility>

#include "client/python/native/loader_options.h"
#include "pipeline/delivery/loader_core.h"
#include "siftd/client_io.h"

namespace siftd {

struct LoaderLink::Impl {
  Impl(const ClientOptions& client, const Hello& hello)
      : core(VerdictsOptions(hello), 0, Now()),
        io(&core, &mu, WithLog(client, [this](const std::string& line) { Log(line); }),
           {[this](MonoTime) { OnTurn(); }, [this](LoaderActions& a) { Acted(a); }, {}}) {
    core.TakePosition();
  }

  void OnTurn() {
    if (std::exchange(leaving, false)) core.Leave(Now());
  }

  void Acted(LoaderActions& actions) {
    const std::lock_guard lock(mu);
    for (LoaderActions::Accepted& a : actions.verdicts)
      taken.verdicts.push_back({std::move(a.verdict), Seconds(a.age)});
    for (const Duration age : actions.late) taken.late_seconds.push_back(Seconds(age));
    const bool room = wants_room && core.unsent() < kUnsentMost;
    const bool failed = !core.failure().ok() && !std::exchange(told_failure, true);
    if (actions.verdicts.empty() && actions.late.empty() && !room && !failed) return;
    wants_room = wants_room && !room;
    news = true;
    changed.notify_one();
  }

  void Log(const std::string& line) {
    const std::lock_guard lock(mu);
    taken.log.push_back(line);
  }

  const pid_t process = getpid();
  mutable std::mutex mu;
  std::condition_variable changed;
  LoaderCore core;  // guarded by mu, like all below
  Taken taken;
  bool news = false;
  bool woken = false;
  bool wants_room = false;
  bool told_failure = false;
  bool leaving = false;
  ClientIo<LoaderCore> io;
};

LoaderLink::LoaderLink(const ClientOptions& client, const Hello& hello)
    : impl_(std::make_unique<Impl>(client, hello)) {}

LoaderLink::~LoaderLink() {
  if (getpid() != impl_->process) {
    static_cast<void>(impl_.release());  // its thread is not here, and can't be joined
    return;
  }
  Stop();
}

Status LoaderLink::Start() { return impl_->io.Start("siftd-link"); }

void LoaderLink::Stop() {
  {
    const std::lock_guard lock(impl_->mu);
    impl_->leaving = true;
  }
  impl_->io.Stop();
}

Status LoaderLink::Offer(Candidates batch) {
  {
    const std::lock_guard lock(impl_->mu);
    SIFTD_RETURN_IF_ERROR(impl_->core.Offer(std::move(batch), Now()));
  }
  impl_->io.Wake();
  return OkStatus();
}

bool LoaderLink::HasRoom() {
  const std::lock_guard lock(impl_->mu);
  impl_->wants_room = impl_->core.unsent() >= kUnsentMost;
  return !impl_->wants_room;
}

void LoaderLink::CancelPass(std::uint64_t pass) {
  const std::lock_guard lock(impl_->mu);
  impl_->core.CancelPass(pass, Now());
  std::erase_if(impl_->taken.verdicts,
                [&](const Verdicted& v) { return v.verdict.key.pass == pass; });
}

void LoaderLink::CloseLease(const BatchKey& key) {
  const std::lock_guard lock(impl_->mu);
  impl_->core.CloseLease(key, Now());
}

void LoaderLink::SetStep(std::uint64_t step) {
  const std::lock_guard lock(impl_->mu);
  impl_->core.SetStep(step);
}

void LoaderLink::Wait(Duration timeout, bool quiet) {
  Impl& m = *impl_;
  std::unique_lock lock(m.mu);
  m.changed.wait_for(lock, timeout, [&] { return m.woken || (!quiet && m.news); });
  m.woken = m.news = false;
}

void LoaderLink::Wake() {
  const std::lock_guard lock(impl_->mu);
  impl_->woken = true;
  impl_->changed.notify_one();
}

LoaderLink::Taken LoaderLink::Take() {
  const std::lock_guard lock(impl_->mu);
  return std::exchange(impl_->taken, {});
}

std::size_t LoaderLink::workers() const {
  const std::lock_guard lock(impl_->mu);
  return impl_->core.workers();
}

std::size_t LoaderLink::connected() const {
  const std::lock_guard lock(impl_->mu);
  return impl_->core.connected();
}

std::uint64_t LoaderLink::late_verdicts() const {
  const std::lock_guard lock(impl_->mu);
  return impl_->core.late_verdicts();
}

std::string LoaderLink::failure() const {
  const std::lock_guard lock(impl_->mu);
  return impl_->core.failure().ok() ? "" : impl_->core.failure().message();
}

}  // namespace siftd
