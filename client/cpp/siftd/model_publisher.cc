// SPDX-License-Identifier: Apache-2.0
#include "siftd/model_publisher.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "pipeline/base/thread.h"
#include "pipeline/delivery/publisher_core.h"
#include "siftd/client_io.h"
#include "siftd/model_snapshot.h"

namespace siftd {
namespace {

constexpr std::size_t kRefusals = 20;

PublisherCoreOptions CoreOptions(const PublisherOptions& o) {
  PublisherCoreOptions core;
  core.job = o.client.job;
  core.name = ClientName(o.client.name, "publisher");
  core.run = o.run;
  core.incarnation = WallNanos();
  return core;
}

}  // namespace

Status PublisherOptions::Validate() const {
  SIFTD_RETURN_IF_ERROR(siftd::Validate(client));
  if (run == 0) return InvalidArgument("run is 0; allowed: the run of the job's trainers, > 0");
  return OkStatus();
}

struct ModelPublisher::Impl {
  explicit Impl(PublisherOptions o)
      : options(std::move(o)),
        core_options(CoreOptions(options)),
        core(core_options, 0, Now()),
        io(&core, &mu, options.client,
           {[this](MonoTime) { OnTurn(); }, [this](PublisherActions& a) { Acted(a); }, {}}) {}
  ~Impl() {
    {
      const std::lock_guard lock(mu);
      leaving = true;
    }
    changed.notify_all();
    sealer.Join();
    io.Stop();
  }

  void OnTurn() {
    if (leaving && !std::exchange(left, true)) core.Leave(Now());
    changed.notify_all();
  }
  void Acted(const PublisherActions& actions);
  // The sealer thread: newest only, like the sending.
  void SealNewest();

  const PublisherOptions options;
  const PublisherCoreOptions core_options;
  mutable std::mutex mu;
  std::condition_variable changed;
  PublisherCore core;  // guarded by mu, like all below
  std::optional<ModelSnapshot> unsealed;
  std::uint64_t version = 0;
  struct Refusal {
    std::uint64_t version = 0;  // 0: the artifact
    std::string text;
  };
  std::deque<Refusal> refusals;
  bool leaving = false;
  bool left = false;
  ClientIo<PublisherCore> io;
  Thread sealer;
};

void ModelPublisher::Impl::Acted(const PublisherActions& actions) {
  const std::lock_guard lock(mu);
  for (const PublisherActions::Applied& a : actions.applied) {
    // Damaged on the way: the core sends it again.
    if (!a.refused || a.code == ErrorCode::kModelCorrupt) continue;
    if (refusals.size() == kRefusals) refusals.pop_front();
    refusals.push_back({a.version, io.endpoint(a.worker) + ": " + a.text});
  }
  if (!actions.applied.empty()) changed.notify_all();
}

void ModelPublisher::Impl::SealNewest() {
  if (!options.artifact.empty()) {
    auto artifact = std::make_shared<ModelSnapshot>(ArtifactSnapshot(options.artifact));
    artifact->begin.run = options.run;
    Seal(core_options.chunk_bytes, artifact.get());
    const std::lock_guard lock(mu);
    core.SetArtifact(std::move(artifact), Now());
    io.Wake();
  }
  std::unique_lock lock(mu);
  while (true) {
    changed.wait(lock, [this] { return leaving || unsealed.has_value(); });
    if (leaving) return;
    auto next = std::make_shared<ModelSnapshot>(*std::exchange(unsealed, std::nullopt));
    lock.unlock();
    Seal(core_options.chunk_bytes, next.get());
    lock.lock();
    core.SetStep(next->begin.step);
    core.Offer(std::move(next), Now());
    io.Wake();
  }
}

ModelPublisher::ModelPublisher(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ModelPublisher::~ModelPublisher() = default;

Result<std::unique_ptr<ModelPublisher>> ModelPublisher::Connect(PublisherOptions options) {
  SIFTD_RETURN_IF_ERROR(options.Validate());
  auto impl = std::make_unique<Impl>(std::move(options));
  SIFTD_RETURN_IF_ERROR(impl->io.Start("siftd-publish"));
  impl->sealer = Thread("siftd-seal", [impl = impl.get()] { impl->SealNewest(); });
  return std::unique_ptr<ModelPublisher>(new ModelPublisher(std::move(impl)));
}

Result<std::uint64_t> ModelPublisher::Publish(std::uint64_t step,
                                              const std::vector<Tensor>& weights,
                                              std::vector<float> history) {
  Impl& m = *impl_;
  SIFTD_ASSIGN_OR_RETURN(ModelSnapshot snapshot, CopyWeights(weights));
  const std::lock_guard lock(m.mu);
  snapshot.begin.run = m.options.run;
  snapshot.begin.step = step;
  snapshot.begin.history = std::move(history);
  snapshot.begin.version = ++m.version;
  m.unsealed = std::move(snapshot);
  m.changed.notify_all();
  return m.version;
}

Status ModelPublisher::WaitApplied(std::uint64_t version, std::size_t workers, Duration timeout) {
  Impl& m = *impl_;
  std::unique_lock lock(m.mu);
  const MonoTime deadline = Now() + timeout;
  while (m.core.applied(version) < workers) {
    if (!m.core.failure().ok()) return m.core.failure();
    for (const Impl::Refusal& refusal : m.refusals) {
      if (refusal.version == 0 || refusal.version >= version)
        return FailedPrecondition(refusal.text);
    }
    if (Now() >= deadline) {
      return DeadlineExceeded("version " + std::to_string(version) + " is in force at " +
                              std::to_string(m.core.applied(version)) + " of " +
                              std::to_string(workers) + " workers; the publisher " +
                              m.core.WaitingFor(Now()));
    }
    m.changed.wait_until(lock, deadline);
  }
  return OkStatus();
}

std::vector<std::string> ModelPublisher::refusals() const {
  const std::lock_guard lock(impl_->mu);
  std::vector<std::string> texts;
  for (const Impl::Refusal& refusal : impl_->refusals) texts.push_back(refusal.text);
  return texts;
}

}  // namespace siftd
