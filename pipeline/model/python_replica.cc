// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/python_replica.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "pipeline/model/python_frames.h"
#include "pipeline/model/weights_check.h"

namespace siftd {
namespace {

using Weights = std::shared_ptr<const WeightsVersion>;

// All entries, those of `delta` in the place of the base's.
WeightsVersion Merged(const WeightsVersion& base, const WeightsVersion& delta) {
  WeightsVersion all = delta;
  all.kind = ModelKind::kFull;
  std::unordered_set<std::string_view> changed;
  for (const Tensor& tensor : delta.tensors) changed.insert(tensor.name);
  for (const Tensor& tensor : base.tensors) {
    if (!changed.contains(tensor.name)) all.tensors.push_back(tensor);
  }
  return all;
}

std::int64_t Rows(const ScoredBatch& batch) {
  return static_cast<std::int64_t>(batch.candidates.sample_id.size());
}

// A child's own words do not say what it was doing.
Status Explained(const std::string& what, const Status& status) {
  if (status.code() != Code::kInternal) return status;
  return Internal("a scorer process " + what + ": " + status.message());
}

void Fill(const std::vector<ScoredBatchPtr>& batches, const std::vector<std::string>& names,
          const std::vector<float>& scores, std::int64_t rows, const WeightsVersion* weights) {
  std::int64_t at = 0;
  for (const ScoredBatchPtr& batch : batches) {
    batch->scores.names = names;
    batch->scores.columns.clear();
    for (std::size_t c = 0; c < names.size(); ++c) {
      const auto first = scores.begin() + static_cast<std::int64_t>(c) * rows + at;
      batch->scores.columns.emplace_back(first, first + Rows(*batch));
    }
    batch->model_version = weights == nullptr ? 0 : weights->version;
    batch->model_step = weights == nullptr ? 0 : weights->step;
    at += Rows(*batch);
  }
}

}  // namespace

struct PythonReplica::Impl {
  // `busy` and `wanted` are guarded by mu; the rest is whoever's set `busy`.
  struct Lane {
    std::unique_ptr<PythonChild> child;  // null: none runs
    Weights holds;                       // null: as the factory made them
    bool busy = false;
    bool wanted = false;  // by Update: no batch may take it first
  };

  // A lane for as long as it lives.
  class Hold {
   public:
    Hold(Impl* impl, Lane* lane) : impl_(impl), lane_(lane) {}
    ~Hold() {
      {
        const std::lock_guard lock(impl_->mu);
        lane_->busy = false;
      }
      impl_->lane_free.notify_all();
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    Impl* const impl_;
    Lane* const lane_;
  };

  Impl(PythonReplicaOptions o)  // NOLINT(google-explicit-constructor)
      : options(std::move(o)), lanes(static_cast<std::size_t>(options.lanes)) {}
  ~Impl() {
    lanes.clear();  // before what they wait on
    if (stop_fd >= 0) close(stop_fd);
  }

  const PythonReplicaOptions options;
  const int stop_fd = eventfd(0, EFD_CLOEXEC);
  PythonReady ready;
  ArtifactManifest manifest;

  mutable std::mutex mu;
  std::condition_variable lane_free;
  std::vector<Lane> lanes;
  Weights in_force;          // guarded by mu
  Weights incoming;          // guarded by mu; some lanes may hold it already
  std::uint64_t deaths = 0;  // guarded by mu
  int in_a_row = 0;          // guarded by mu; deaths without a scored batch in between
  std::string down;          // guarded by mu
  bool stopped = false;      // guarded by mu

  Status Start(const ParseManifest& parse);
  Result<Lane*> TakeAny(Weights* target);
  Status Take(Lane* lane);
  Status Replace(Lane* lane);
  Status Bring(Lane* lane, const Weights& target, const Weights& base, const WeightsVersion* delta);
  Status Lost(Lane* lane, const Status& why);
  Status Died(const std::string& how);
};

Status PythonReplica::Impl::Start(const ParseManifest& parse) {
  for (Lane& lane : lanes) {
    SIFTD_ASSIGN_OR_RETURN(lane.child, PythonChild::Spawn(options.child, stop_fd));
  }
  for (Lane& lane : lanes) {
    SIFTD_ASSIGN_OR_RETURN(PythonReady said, lane.child->AwaitReady(options.start_deadline));
    if (&lane == &lanes.front()) {
      ready = std::move(said);
      SIFTD_ASSIGN_OR_RETURN(manifest, parse(ready.manifest));
    } else if (said.sha256 != ready.sha256) {
      return InvalidArgument(
          "two calls of it made different scorers; it must always make the same");
    }
  }
  return OkStatus();
}

// Counts a death; kUnavailable, or kInternal once the replica stays down.
Status PythonReplica::Impl::Died(const std::string& how) {
  std::string line;
  Status status = Unavailable(how);
  {
    const std::lock_guard lock(mu);
    ++deaths;
    if (++in_a_row >= kMostDeaths && down.empty()) {
      down =
          "the Python scorer stays down after " + std::to_string(in_a_row) +
          " deaths without a scored batch in between; the last: " + how +
          ". The worker's standard error may have its traceback. Start the worker again once that "
          "is put right";
      status = Internal(down);
    }
    line = down.empty() ? how + "; another one takes its place" : down;
  }
  lane_free.notify_all();
  options.log(line);
  return status;
}

Status PythonReplica::Impl::Lost(Lane* lane, const Status& why) {
  lane->child.reset();
  lane->holds.reset();
  return why.code() == Code::kCancelled ? why : Died(why.message());
}

Status PythonReplica::Impl::Replace(Lane* lane) {
  lane->holds.reset();
  auto child = PythonChild::Spawn(options.child, stop_fd);
  if (!child.ok()) return Lost(lane, child.status());
  lane->child = std::move(*child);
  const auto said = lane->child->AwaitReady(options.start_deadline);
  if (!said.ok()) return Lost(lane, Explained("did not load", said.status()));
  if (said->sha256 != ready.sha256)
    return Lost(lane, Unavailable("the factory made another scorer than at the start"));
  return OkStatus();
}

// The lane's child runs and holds `target`. `delta`: what makes `base` the target.
Status PythonReplica::Impl::Bring(Lane* lane, const Weights& target, const Weights& base,
                                  const WeightsVersion* delta) {
  if (lane->child != nullptr && !lane->child->alive()) {
    const Status lost = Lost(lane, Unavailable(lane->child->LastWords()));
    if (lost.code() != Code::kUnavailable) return lost;
  }
  // It took part of a first version that was then refused: only a new one is as the factory made
  // it.
  if (target == nullptr && lane->holds != nullptr) lane->child.reset();
  if (lane->child == nullptr) SIFTD_RETURN_IF_ERROR(Replace(lane));
  if (lane->holds == target) return OkStatus();
  const bool follows = delta != nullptr && lane->holds == base;
  const Status status = lane->child->Update(
      python_frames::UpdateRequest(manifest, follows ? *delta : *target), options.start_deadline);
  // After an error its weights may be a mixture.
  if (!status.ok()) return Lost(lane, Explained("did not take the weights", status));
  lane->holds = target;
  return OkStatus();
}

// Any lane, and the weights that its batch is to run on.
Result<PythonReplica::Impl::Lane*> PythonReplica::Impl::TakeAny(Weights* target) {
  std::unique_lock lock(mu);
  Lane* found = nullptr;
  lane_free.wait(lock, [&] {
    const auto free = [](const Lane& lane) { return !lane.busy && !lane.wanted; };
    const auto it = std::find_if(lanes.begin(), lanes.end(), free);
    if (it != lanes.end()) found = &*it;
    return stopped || !down.empty() || found != nullptr;
  });
  if (stopped) return Cancelled("the worker is ending");
  if (!down.empty()) return Internal(down);
  found->busy = true;
  // A version that is still being handed out counts where it arrived.
  *target = incoming != nullptr && found->holds == incoming ? incoming : in_force;
  return found;
}

Status PythonReplica::Impl::Take(Lane* lane) {
  std::unique_lock lock(mu);
  lane->wanted = true;
  lane_free.wait(lock, [&] { return stopped || !down.empty() || !lane->busy; });
  lane->wanted = false;
  if (stopped) return Cancelled("the worker is ending");
  if (!down.empty()) return Internal(down);
  lane->busy = true;
  return OkStatus();
}

PythonReplica::PythonReplica(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PythonReplica::~PythonReplica() { Stop(); }
const ArtifactManifest& PythonReplica::manifest() const { return impl_->manifest; }
const std::string& PythonReplica::sha256() const { return impl_->ready.sha256; }

std::uint64_t PythonReplica::deaths() const {
  const std::lock_guard lock(impl_->mu);
  return impl_->deaths;
}

std::string PythonReplica::down() const {
  const std::lock_guard lock(impl_->mu);
  return impl_->down;
}

Result<std::unique_ptr<PythonReplica>> PythonReplica::Start(const PythonReplicaOptions& options,
                                                            const ParseManifest& parse) {
  auto impl = std::make_unique<Impl>(options);
  Status s = impl->Start(parse);
  if (s.ok()) return std::unique_ptr<PythonReplica>(new PythonReplica(std::move(impl)));
  const std::string& python = options.child.python;
  if (s.code() == Code::kNotFound)
    return InvalidArgument("python is '" + python + "': " + s.message());
  std::string text = "python_factory '" + options.child.factory + "': " + s.message();
  if (s.code() == Code::kUnavailable || s.code() == Code::kDeadlineExceeded) {
    text += " before its scorer was ready; its standard error says why. '" + python +
            "' needs siftd and torch";
  }
  // What the child says of its factory is for the operator to put right.
  return Status(s.code() == Code::kInternal ? Code::kInvalidArgument : s.code(), std::move(text));
}

std::optional<UpdateError> PythonReplica::Update(const WeightsVersion& weights) {
  Impl& m = *impl_;
  if (auto error = CheckWeights(m.manifest, weights)) return error;
  if (m.options.refuse_non_finite) {
    if (auto error = CheckFinite(weights)) return error;
  }
  const bool delta = weights.kind == ModelKind::kDelta;
  Weights base;
  Weights target;
  {
    const std::lock_guard lock(m.mu);
    base = m.in_force;
    if (delta && base == nullptr)
      return UpdateError{ErrorCode::kModelMismatch, "a DELTA needs a FULL version before it"};
    target = std::make_shared<WeightsVersion>(delta ? Merged(*base, weights) : weights);
    m.incoming = target;
  }
  Status status;
  for (Impl::Lane& lane : m.lanes) {
    if (status = m.Take(&lane); !status.ok()) break;
    const Impl::Hold hold(&m, &lane);
    const WeightsVersion* send = delta ? &weights : nullptr;
    status = m.Bring(&lane, target, base, send);
    // It may have died of something else; the one in its place gets a try.
    if (status.code() == Code::kUnavailable) status = m.Bring(&lane, target, base, send);
    if (!status.ok()) break;
  }
  const std::lock_guard lock(m.mu);
  m.incoming.reset();
  // Lanes that have it already get the version in force again before they score.
  if (!status.ok()) return UpdateError{ErrorCode::kInternal, status.message()};
  m.in_force = std::move(target);
  return std::nullopt;
}

Status PythonReplica::Score(const std::vector<ScoredBatchPtr>& batches) {
  Impl& m = *impl_;
  std::int64_t rows = 0;
  for (const ScoredBatchPtr& batch : batches) rows += Rows(*batch);
  Weights target;
  SIFTD_ASSIGN_OR_RETURN(Impl::Lane* const lane, m.TakeAny(&target));
  const Impl::Hold hold(&m, lane);
  SIFTD_RETURN_IF_ERROR(m.Bring(lane, target, nullptr, nullptr));
  std::vector<float> scores;
  if (rows > 0) {
    SIFTD_ASSIGN_OR_RETURN(const auto request, python_frames::ScoreRequest(m.manifest, batches));
    auto answer =
        lane->child->Score(request, static_cast<std::size_t>(rows) * m.manifest.columns.size(),
                           m.options.score_deadline);
    if (answer.status().code() == Code::kInternal)
      return Internal("the scorer failed: " + answer.status().message());
    if (!answer.ok()) {
      const Status lost = m.Lost(lane, answer.status());
      const bool too_long =
          answer.status().code() == Code::kDeadlineExceeded && lost.code() == Code::kUnavailable;
      return too_long ? DeadlineExceeded(lost.message()) : lost;
    }
    scores = std::move(*answer);
  }
  Fill(batches, m.manifest.columns, scores, rows, lane->holds.get());
  const std::lock_guard lock(m.mu);
  m.in_a_row = 0;
  return OkStatus();
}

void PythonReplica::Stop() {
  {
    const std::lock_guard lock(impl_->mu);
    impl_->stopped = true;
  }
  eventfd_write(impl_->stop_fd, 1);
  impl_->lane_free.notify_all();
}

}  // namespace siftd
