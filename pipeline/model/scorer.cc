// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/scorer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <iterator>
#include <mutex>
#include <utility>
#include <vector>

#include "pipeline/base/bounded_queue.h"
#include "pipeline/base/fault_point.h"
#include "pipeline/base/thread.h"
#include "pipeline/model/jit_replica.h"
#include "pipeline/model/prior_rows.h"

namespace siftd {
namespace {

constexpr std::size_t kQueueCapacity =
    65536;  // above any max_inflight: the graph's limiter is the bound

void Reject(ScoredBatch& batch, ErrorCode code, const std::string& text) {
  batch.decision =
      RejectedDecision(static_cast<std::uint32_t>(batch.candidates.sample_id.size()), code, text);
}

}  // namespace

struct Scorer::Impl {
  struct Task {
    ScoreGroupPtr group;
    std::function<void(ScoreGroupPtr)> done;
    MonoTime submitted;
  };

  explicit Impl(const ScorerOptions& o) : options(o) {}

  const ScorerOptions options;
  mutable std::mutex mu;
  std::shared_ptr<Replica> replica;  // guarded by mu
  BoundedQueue<Task> queue{kQueueCapacity};
  std::atomic<bool> closing{false};
  std::vector<Thread> lanes;  // last: they use all of the above

  std::shared_ptr<Replica> Current() const {
    const std::lock_guard lock(mu);
    return replica;
  }

  void RunLane() {
    at::set_num_threads(options.threads);  // of this thread's OpenMP team
    Task task;
    while (queue.Pop(&task, MonoTime::max()) == QueueResult::kOk) {
      const MonoTime begin = Now();
      Score(*task.group);
      const MonoTime end = Now();
      std::int64_t rows = 0;
      for (const ScoredBatchPtr& batch : task.group->batches)
        rows += CountToScore(batch->candidates);
      for (const ScoredBatchPtr& batch : task.group->batches) {
        batch->score_wait = begin - task.submitted;
        batch->score_busy =
            (end - begin) * CountToScore(batch->candidates) / std::max<std::int64_t>(1, rows);
      }
      task.done(std::move(task.group));
      task = {};
    }
  }

  void Score(const ScoreGroup& group) const {
    const std::shared_ptr<Replica> r = Current();
    if (closing || r == nullptr) {
      for (const ScoredBatchPtr& batch : group.batches) {
        Reject(*batch, closing ? ErrorCode::kDraining : ErrorCode::kNoModel,
               closing ? "the worker is ending" : "no scorer is loaded");
      }
      return;
    }
    std::vector<ScoredBatchPtr> cut;  // where rows have prior scores
    const bool some = std::any_of(group.batches.begin(), group.batches.end(),
                                  [](const auto& b) { return !b->candidates.prior_score.empty(); });
    if (some)
      std::transform(group.batches.begin(), group.batches.end(), std::back_inserter(cut), ToScore);
    const std::vector<ScoredBatchPtr>& parts = some ? cut : group.batches;
    FaultPoint("score");
    const Status status = r->Score(parts);
    if (status.ok()) {
      for (std::size_t i = 0; i < parts.size(); ++i) TakeScores(*parts[i], group.batches[i].get());
      return;
    }
    if (group.batches.size() == 1 && status.code() != Code::kUnavailable) {
      RejectFailed(*group.batches[0], status);
      return;
    }
    // Only the batch that is at fault pays for it; a replica that failed may have been at fault
    // itself.
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (const Status alone = r->Score({parts[i]}); alone.ok()) {
        TakeScores(*parts[i], group.batches[i].get());
      } else {
        RejectFailed(*group.batches[i], alone);
      }
    }
  }

  void RejectFailed(ScoredBatch& batch, const Status& why) const {
    Reject(batch, closing ? ErrorCode::kDraining : ErrorCode::kScoringFailed, why.message());
  }
};

Scorer::Scorer(const ScorerOptions& options) : impl_(std::make_unique<Impl>(options)) {
  for (int i = 0; i < options.lanes; ++i) {
    impl_->lanes.emplace_back("siftd-lane" + std::to_string(i),
                              [impl = impl_.get()] { impl->RunLane(); });
  }
}

Scorer::~Scorer() { Close(); }

Status Scorer::LoadArtifact(const Frame& archive, ArtifactManifest manifest) {
  const ScorerOptions& options = impl_->options;
  if (options.load) {
    SIFTD_ASSIGN_OR_RETURN(auto replica, options.load(archive, std::move(manifest)));
    Use(std::move(replica));
    return OkStatus();
  }
  SIFTD_ASSIGN_OR_RETURN(auto replica,
                         JitReplica::Load(archive, std::move(manifest), options.device,
                                          options.refuse_non_finite, options.cost));
  Use(std::move(replica));
  return OkStatus();
}

void Scorer::Use(std::shared_ptr<Replica> replica) {
  const std::lock_guard lock(impl_->mu);
  impl_->replica.swap(replica);
}

std::optional<UpdateError> Scorer::Update(const WeightsVersion& weights) {
  const std::shared_ptr<Replica> replica = impl_->Current();
  if (replica == nullptr)
    return UpdateError{ErrorCode::kNoModel, "no scorer is loaded to take weights"};
  return replica->Update(weights);
}

bool Scorer::loaded() const { return impl_->Current() != nullptr; }

void Scorer::Submit(ScoreGroupPtr group, std::function<void(ScoreGroupPtr)> done) {
  Impl::Task task{std::move(group), std::move(done), Now()};
  if (impl_->queue.TryPush(task) == QueueResult::kOk) return;
  for (const ScoredBatchPtr& batch : task.group->batches) {
    Reject(*batch, ErrorCode::kDraining, "the worker is ending");
  }
  task.done(std::move(task.group));
}

Status Scorer::CheckInputs(const std::vector<Tensor>& tensors) const {
  const std::shared_ptr<Replica> replica = impl_->Current();
  if (replica == nullptr) return FailedPrecondition("no scorer is loaded");
  return replica->CheckInputs(tensors);
}

std::vector<std::string> Scorer::Columns() const {
  const std::shared_ptr<Replica> replica = impl_->Current();
  return replica == nullptr ? std::vector<std::string>() : replica->manifest().columns;
}

void Scorer::Close() {
  impl_->closing = true;
  impl_->queue.Close();
  if (const auto replica = impl_->Current()) replica->Stop();
  for (Thread& lane : impl_->lanes) lane.Join();
}

}  // namespace siftd
