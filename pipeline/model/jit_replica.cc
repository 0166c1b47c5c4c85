// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/jit_replica.h"

#include <torch/script.h>

#include <array>
#include <atomic>
#include <mutex>
#include <optional>
#include <shared_mutex>

#include "pipeline/model/cheap_forward.h"
#include "pipeline/model/input_stage.h"
#include "pipeline/model/memory_reader.h"
#include "pipeline/model/weight_set.h"
#include "pipeline/model/weights_check.h"

namespace siftd {
namespace {

// What one forward at a time runs on.
struct Lane {
  explicit Lane(at::Device device)
      : copies(device, DeviceStream::Priority::kHigh),
        compute(device, DeviceStream::Priority::kHigh) {}
  DeviceStream copies;
  DeviceStream compute;
};

// Memory of a forward is used again as soon as it is let go of: not while its device works on it,
// also when the forward fails halfway.
class DeviceDone {
 public:
  explicit DeviceDone(Lane* lane) : lane_(lane) {}
  ~DeviceDone() {
    if (done_) return;
    try {
      lane_->copies.Wait();
      lane_->compute.Wait();
    } catch (const std::exception&) {  // an earlier error is on its way
    }
  }
  DeviceDone(const DeviceDone&) = delete;
  DeviceDone& operator=(const DeviceDone&) = delete;

  // REQUIRES: compute comes after copies. Throws what went wrong on the device.
  void Wait() {
    lane_->compute.Wait();
    done_ = true;
  }

 private:
  Lane* const lane_;
  bool done_ = false;
};

}  // namespace

struct JitReplica::Impl {
  ArtifactManifest manifest;
  at::Device device{at::kCPU};
  bool refuse_non_finite = true;
  ScoreCost cost;
  Frame archive;                    // kept with cost.optimized
  std::vector<at::Tensor> example;  // made up; may be empty
  std::array<WeightSet, 2> sets;
  std::atomic<int> current{0};
  std::optional<InputStage> stage;
  std::optional<DeviceStream> updates;  // the updating thread's
  std::mutex mu;
  std::vector<std::unique_ptr<Lane>> idle_lanes;  // guarded by mu

  // Makes what runs in the place of `set`'s module, where there is such. Throws what LibTorch does.
  void Optimize(WeightSet* set) const {
    if (!cost.optimized) return;
    set->optimized = Optimized(archive, set->module);
    WarmUp(&*set->optimized, example, cost);
  }
  std::unique_ptr<Lane> TakeLane();
  void Return(std::unique_ptr<Lane> lane);
  Status Forward(const std::vector<ScoredBatchPtr>& batches, Lane* lane);
  // float32 [columns, rows], on its way to the CPU.
  Result<at::Tensor> Columns(const c10::IValue& output, std::int64_t rows) const;
};

std::unique_ptr<Lane> JitReplica::Impl::TakeLane() {
  {
    const std::lock_guard lock(mu);
    if (!idle_lanes.empty()) {
      auto lane = std::move(idle_lanes.back());
      idle_lanes.pop_back();
      return lane;
    }
  }
  return std::make_unique<Lane>(device);
}

void JitReplica::Impl::Return(std::unique_ptr<Lane> lane) {
  const std::lock_guard lock(mu);
  idle_lanes.push_back(std::move(lane));
}

JitReplica::JitReplica(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
JitReplica::~JitReplica() = default;
const ArtifactManifest& JitReplica::manifest() const { return impl_->manifest; }

Result<std::unique_ptr<JitReplica>> JitReplica::Load(const Frame& archive,
                                                     ArtifactManifest manifest,
                                                     const DeviceName& device,
                                                     bool refuse_non_finite,
                                                     const ScoreCost& cost) {
  SIFTD_RETURN_IF_ERROR(ProbeDevice(device));
  auto impl = std::make_unique<Impl>();
  impl->manifest = std::move(manifest);
  impl->device = at::Device(ToString(device));
  impl->refuse_non_finite = refuse_non_finite;
  impl->cost = cost;
  if (cost.optimized) impl->archive = archive;
  try {
    WeightSet& first = impl->sets[0];
    first.module = torch::jit::load(std::make_shared<MemoryReader>(archive), impl->device);
    first.module.eval();
    // Without a device: deepcopy(device) hands on tensors that are there already, and both sets
    // would share them.
    impl->sets[1].module = first.module.deepcopy();
  } catch (const std::exception& e) {
    return InvalidArgument("cannot load the scorer: " + Cause(e));
  }
  for (WeightSet& set : impl->sets) {
    SIFTD_RETURN_IF_ERROR(set.Bind(impl->manifest));
    if (cost.bf16) WeightsAsBf16(&set.module);
  }
  try {
    WeightSet& first = impl->sets[0];
    impl->Optimize(&first);
    torch::jit::Module& runs = first.optimized ? *first.optimized : first.module;
    SIFTD_ASSIGN_OR_RETURN(impl->example,
                           TryCost(archive, impl->manifest, impl->device, cost, &runs));
    impl->stage.emplace(impl->manifest, runs, impl->device);
    impl->updates.emplace(impl->device, DeviceStream::Priority::kNormal);
    impl->Return(impl->TakeLane());
    DeviceStream::WaitForDefault(impl->device);
  } catch (const std::exception& e) {
    return InvalidArgument("cannot prepare the scorer for device '" + ToString(device) +
                           "': " + Cause(e));
  }
  return std::unique_ptr<JitReplica>(new JitReplica(std::move(impl)));
}

std::optional<UpdateError> JitReplica::Update(const WeightsVersion& weights) {
  const int now = impl_->current.load();
  const WeightSet& active = impl_->sets[static_cast<std::size_t>(now)];
  WeightSet& idle = impl_->sets[static_cast<std::size_t>(1 - now)];
  if (auto error = CheckWeights(impl_->manifest, weights)) return error;
  const torch::NoGradGuard no_grad;
  try {
    if (impl_->refuse_non_finite) {
      if (auto error = CheckFinite(weights)) return error;
    }
    const std::unique_lock lock(
        idle.mu);  // batches that began on the idle set before the last swap end first
    DeviceStream& stream = *impl_->updates;
    if (weights.kind == ModelKind::kDelta) CopyWeights(active, &stream, &idle);
    WriteWeights(weights, impl_->device, &stream, &idle);
    stream.Wait();
    impl_->Optimize(&idle);
    idle.version = weights.version;
    idle.step = weights.step;
  } catch (const std::exception& e) {
    return UpdateError{ErrorCode::kInternal, "cannot write the weights: " + Cause(e)};
  }
  impl_->current.store(1 - now);
  return std::nullopt;
}

Result<at::Tensor> JitReplica::Impl::Columns(const c10::IValue& output, std::int64_t rows) const {
  std::vector<at::Tensor> columns;
  if (output.isTensor()) {
    columns.push_back(output.toTensor());
  } else if (output.isTuple()) {
    for (const c10::IValue& element : output.toTupleRef().elements()) {
      if (element.isTensor()) columns.push_back(element.toTensor());
    }
  }
  if (columns.size() != manifest.columns.size()) {
    return Internal("the scorer returned " + std::to_string(columns.size()) +
                    " tensors; its manifest names " + std::to_string(manifest.columns.size()) +
                    " columns");
  }
  at::Tensor all = at::empty({static_cast<std::int64_t>(columns.size()), rows},
                             at::TensorOptions(at::kFloat).pinned_memory(!device.is_cpu()));
  for (std::size_t i = 0; i < columns.size(); ++i) {
    if (columns[i].numel() != rows) {
      return Internal("score column '" + manifest.columns[i] + "' has " +
                      std::to_string(columns[i].numel()) + " values for " + std::to_string(rows) +
                      " rows; the loss must not be reduced over the batch");
    }
    all[static_cast<std::int64_t>(i)].copy_(columns[i].reshape({rows}), /*non_blocking=*/true);
  }
  return all;
}

Status JitReplica::Impl::Forward(const std::vector<ScoredBatchPtr>& batches, Lane* lane) {
  std::int64_t rows = 0;
  for (const ScoredBatchPtr& batch : batches)
    rows += static_cast<std::int64_t>(batch->candidates.sample_id.size());
  const c10::InferenceMode inference;
  const WeightSet* set = nullptr;
  std::shared_lock<std::shared_mutex> lock;
  at::Tensor scores;
  {
    std::vector<at::Tensor> staged;
    c10::IValue output;
    DeviceDone done(lane);  // before either is let go of
    staged = stage->Stage(batches, &lane->copies);
    lane->compute.After(lane->copies);
    do {  // the set may have become the idle one meanwhile; its writer need not be waited for
      set = &sets[static_cast<std::size_t>(current.load())];
      lock = std::shared_lock(set->mu);
    } while (set != &sets[static_cast<std::size_t>(current.load())]);
    const DeviceStream::Use use(lane->compute);
    const Bf16Scope scope(cost.bf16, device.type());
    std::vector<c10::IValue> inputs;
    for (const at::Tensor& input : staged) inputs.emplace_back(Cheap(input, cost));
    // forward() is not const, yet runs the graph without changing the module.
    const torch::jit::Module& runs = set->optimized ? *set->optimized : set->module;
    output = const_cast<torch::jit::Module&>(runs).forward(std::move(inputs));
    SIFTD_ASSIGN_OR_RETURN(scores, Columns(output, rows));
    done.Wait();
  }
  const float* data = scores.const_data_ptr<float>();
  for (const ScoredBatchPtr& batch : batches) {
    const std::size_t n = batch->candidates.sample_id.size();
    batch->scores.names = manifest.columns;
    batch->scores.columns.clear();
    for (std::size_t column = 0; column < manifest.columns.size(); ++column) {
      const float* first = data + column * static_cast<std::size_t>(rows);
      batch->scores.columns.emplace_back(first, first + n);
    }
    batch->model_version = set->version;
    batch->model_step = set->step;
    data += n;
  }
  return OkStatus();
}

Status JitReplica::Score(const std::vector<ScoredBatchPtr>& batches) {
  try {
    std::unique_ptr<Lane> lane = impl_->TakeLane();
    Status status = impl_->Forward(batches, lane.get());
    impl_->Return(std::move(lane));
    return status;
  } catch (const std::exception& e) {
    return Internal("the scorer failed: " + Cause(e));
  }
}

}  // namespace siftd
