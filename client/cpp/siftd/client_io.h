// SPDX-License-Identifier: Apache-2.0
// ClientIo: runs one client core (LoaderCore, TrainerCore, PublisherCore) over its sockets, on an
// I/O thread of its own. Internal to client/cpp. The core is guarded by the client's mutex, which
// is held while a message is taken in, never while one is decoded, encoded or sent.
// Start, Stop: the owner's thread. Wake: any thread.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/fault_point.h"
#include "pipeline/base/memory.h"
#include "pipeline/base/thread.h"
#include "pipeline/net/dealer_pool.h"
#include "pipeline/net/wakeup.h"
#include "pipeline/wire/codec.h"
#include "siftd/client_options.h"

namespace siftd {

// Endpoints whose names are resolved: one worker per address. Blocks for the look-up.
Result<std::vector<std::string>> ResolveAll(const std::vector<std::string>& endpoints);

template <typename Core>
class ClientIo {
 public:
  using Actions = decltype(std::declval<Core&>().TakeActions());

  struct Hooks {
    // Each turn, after messages were taken in. The mutex is held.
    std::function<void(MonoTime)> turn;
    // What the core left besides messages. The mutex is not held.
    std::function<void(Actions&)> acted;
    // Each turn, last. The mutex is not held.
    std::function<void()> turned;
  };

  // `core` and `mu` outlive the loop; `core` was made for 0 workers.
  ClientIo(Core* core, std::mutex* mu, const ClientOptions& options, Hooks hooks)
      : core_(core), mu_(mu), options_(options), hooks_(std::move(hooks)) {}
  ~ClientIo() { Stop(); }
  ClientIo(const ClientIo&) = delete;
  ClientIo& operator=(const ClientIo&) = delete;

  // Reads the keys, resolves the endpoints and begins to connect.
  Status Start(const std::string& thread_name) {
    if (!options_.keys.empty()) {
      SIFTD_ASSIGN_OR_RETURN(ClientKeys keys, ReadClientKeys(options_.keys, options_.worker_key));
      pool_.UseKeys(std::move(keys));
    }
    SIFTD_RETURN_IF_ERROR(Resolve());
    resolved_ = Now();
    KeepFreedMemory();
    thread_ = Thread(thread_name, [this] { Run(); });
    return OkStatus();
  }

  void Wake() { wakeup_.Wake(); }

  // Of a worker, by its number. The I/O thread only.
  const std::string& endpoint(std::size_t w) const { return pool_.endpoint(w); }

  // What the core wants sent by now is sent; then the sockets are closed.
  void Stop() {
    stopping_ = true;
    wakeup_.Wake();
    thread_.Join();
  }

 private:
  static constexpr Duration kTick = milliseconds(100);
  static constexpr Duration kResolveEvery = std::chrono::seconds(10);
  static constexpr int kMessagesPerTurn = 64;

  Status Resolve() {
    SIFTD_ASSIGN_OR_RETURN(const std::vector<std::string> found, ResolveAll(options_.endpoints));
    for (const std::string& endpoint : found) {
      bool known = false;
      for (std::size_t w = 0; w < pool_.size(); ++w) known = known || pool_.endpoint(w) == endpoint;
      if (known) continue;
      SIFTD_ASSIGN_OR_RETURN(const std::size_t w, pool_.Add(endpoint));
      const std::lock_guard lock(*mu_);
      core_->AddWorker(Now());
      core_->NameWorker(w, endpoint);
    }
    return OkStatus();
  }

  void Run() {
    StepAside();
    bool last = false;
    while (!last) {
      last = stopping_;
      pool_.Poll(last ? Duration::zero() : kTick, wakeup_);
      wakeup_.Clear();
      const MonoTime now = Now();
      Receive(now);
      {
        const std::lock_guard lock(*mu_);
        for (const DealerPool::Refused& r : pool_.TakeRefused())
          core_->OnRefused(r.worker, r.why, r.for_good, now);
        if (hooks_.turn) hooks_.turn(now);
        core_->OnTick(now);
      }
      Act(now);
      if (hooks_.turned) hooks_.turned();
      if (!last && now - resolved_ > kResolveEvery) {
        resolved_ = now;
        if (const Status status = Resolve(); !status.ok()) Log(status.message());
      }
    }
  }

  void Receive(MonoTime now) {
    DealerPool::Received received;
    for (int i = 0; i < kMessagesPerTurn && pool_.Receive(&received); ++i) {
      auto message = received.too_many_frames
                         ? Result<Message>(InvalidArgument("frames are more than 34"))
                         : Decode(received.frames);
      const std::lock_guard lock(*mu_);
      if (message.ok()) {
        core_->OnMessage(received.worker, std::move(message).value(), now);
      } else {
        core_->OnLinkLost(received.worker, "sent what is no message: " + message.status().message(),
                          now);
      }
    }
  }

  // A send that fails ends its session, which gives new actions.
  void Act(MonoTime now) {
    while (true) {
      std::unique_lock lock(*mu_);
      Actions actions = core_->TakeActions();
      lock.unlock();
      for (const std::string& line : actions.log) Log(line);
      for (const std::size_t w : actions.reconnect) pool_.Reopen(w);
      for (const auto& send : actions.sends) {
        if (std::holds_alternative<ModelChunk>(send.message)) FaultPoint("push_chunk");
        Encode(send.message, &outgoing_);
        const auto sent = pool_.Send(send.worker, outgoing_);
        outgoing_.clear();
        if (sent == DealerPool::Sent::kSent) continue;
        lock.lock();
        core_->OnNotSent(send.worker, now);
        lock.unlock();
      }
      if (hooks_.acted) hooks_.acted(actions);
      if (actions.log.empty() && actions.reconnect.empty() && actions.sends.empty()) return;
    }
  }

  void Log(const std::string& line) {
    if (options_.log) options_.log("siftd: " + line);
  }

  Core* const core_;
  std::mutex* const mu_;
  const ClientOptions options_;
  const Hooks hooks_;
  Wakeup wakeup_;
  DealerPool pool_;
  Frames outgoing_;  // empty but while one is sent
  MonoTime resolved_{};
  std::atomic<bool> stopping_{false};
  Thread thread_;  // last: its body uses all of the above
};

}  // namespace siftd
