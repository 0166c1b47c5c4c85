// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/jit_replica.h"

#include <torch/script.h>

#include <array>
#include <atomic>
#include <optional>
#include <shared_mutex>
#include <unordered_map>

#include "pipeline/model/cheap_forward.h"
#include "pipeline/model/memory_reader.h"
#include "pipeline/model/tensor_convert.h"
#include "pipeline/model/weights_check.h"

namespace siftd {
namespace {

// One complete set of weights. `mu` is held shared while a batch runs on it, exclusively while it
// is rewritten.
struct WeightSet {
  mutable std::shared_mutex mu;
  torch::jit::Module module;
  std::optional<torch::jit::Module> optimized;        // runs in its place
  std::unordered_map<std::string, at::Tensor> state;  // by StateEntry::name
  std::uint64_t version = 0;
  std::uint64_t step = 0;
};

Status BindState(const ArtifactManifest& manifest, WeightSet* set) {
  std::unordered_map<std::string, at::Tensor> found;
  for (const auto& p : set->module.named_parameters()) found.emplace(p.name, p.value);
  for (const auto& b : set->module.named_buffers()) found.emplace(b.name, b.value);
  for (const StateEntry& entry : manifest.state) {
    const auto it = found.find(entry.archive_name);
    if (it == found.end()) {
      return InvalidArgument("manifest entry '" + entry.name + "': the archive has no '" +
                             entry.archive_name + "'");
    }
    const at::Tensor& t = it->second;
    if (t.scalar_type() != ToScalarType(entry.dtype) || t.sizes() != at::IntArrayRef(entry.shape)) {
      return InvalidArgument(
          "manifest entry '" + entry.name + "' says " +
          ToString(TensorSpec{"", entry.dtype, entry.shape}) + "; the archive holds " +
          ToString(TensorSpec{"", FromScalarType(t.scalar_type()), t.sizes().vec()}));
    }
    set->state.emplace(entry.name, t);
  }
  return OkStatus();
}

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

  // Makes what runs in the place of `set`'s module, where there is such. Throws what LibTorch does.
  void Optimize(WeightSet* set) const {
    if (!cost.optimized) return;
    set->optimized = Optimized(archive, set->module);
    WarmUp(&*set->optimized, example, cost);
  }
  at::Tensor Collate(const std::vector<ScoredBatchPtr>& batches, const TensorSpec& spec,
                     std::int64_t rows) const;
  Result<std::vector<at::Tensor>> Columns(const c10::IValue& output, std::int64_t rows) const;
};

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
    SIFTD_RETURN_IF_ERROR(BindState(impl->manifest, &set));
    if (cost.bf16) WeightsAsBf16(&set.module);
  }
  try {
    WeightSet& first = impl->sets[0];
    impl->Optimize(&first);
    SIFTD_ASSIGN_OR_RETURN(impl->example,
                           TryCost(archive, impl->manifest, impl->device, cost,
                                   first.optimized ? &*first.optimized : &first.module));
  } catch (const std::exception& e) {
    return InvalidArgument("cannot optimize the scorer: " + Cause(e));
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
    if (weights.kind == ModelKind::kDelta) {
      for (const auto& [name, tensor] : active.state) idle.state.at(name).copy_(tensor);
    }
    for (const Tensor& tensor : weights.tensors) idle.state.at(tensor.name).copy_(ViewAten(tensor));
    impl_->Optimize(&idle);
    idle.version = weights.version;
    idle.step = weights.step;
  } catch (const std::exception& e) {
    return UpdateError{ErrorCode::kInternal, "cannot write the weights: " + Cause(e)};
  }
  impl_->current.store(1 - now);
  return std::nullopt;
}

at::Tensor JitReplica::Impl::Collate(const std::vector<ScoredBatchPtr>& batches,
                                     const TensorSpec& spec, std::int64_t rows) const {
  at::Tensor out;
  std::uint8_t* to = nullptr;
  for (const ScoredBatchPtr& batch : batches) {
    for (const Tensor& tensor : batch->candidates.tensors) {
      if (tensor.name != spec.name) continue;
      if (to == nullptr) {
        std::vector<std::int64_t> shape = tensor.shape;
        shape[0] = rows;
        out = at::empty(shape, at::TensorOptions(ToScalarType(tensor.dtype)));
        to = static_cast<std::uint8_t*>(out.data_ptr());
      }
      if (tensor.bytes.size() > 0) std::memcpy(to, tensor.bytes.data(), tensor.bytes.size());
      to += tensor.bytes.size();
      break;
    }
  }
  return Cheap(out.to(device), cost);
}

Result<std::vector<at::Tensor>> JitReplica::Impl::Columns(const c10::IValue& output,
                                                          std::int64_t rows) const {
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
  for (std::size_t i = 0; i < columns.size(); ++i) {
    if (columns[i].numel() != rows) {
      return Internal("score column '" + manifest.columns[i] + "' has " +
                      std::to_string(columns[i].numel()) + " values for " + std::to_string(rows) +
                      " rows; the loss must not be reduced over the batch");
    }
    columns[i] = columns[i].to(at::kCPU, at::kFloat).contiguous();
  }
  return columns;
}

Status JitReplica::Score(const std::vector<ScoredBatchPtr>& batches) {
  std::int64_t rows = 0;
  for (const ScoredBatchPtr& batch : batches)
    rows += static_cast<std::int64_t>(batch->candidates.sample_id.size());
  const c10::InferenceMode inference;
  try {
    std::vector<c10::IValue> inputs;
    for (const TensorSpec& spec : impl_->manifest.inputs)
      inputs.emplace_back(impl_->Collate(batches, spec, rows));
    const WeightSet* set = nullptr;
    std::shared_lock<std::shared_mutex> lock;
    do {  // the set may have become the idle one meanwhile; its writer need not be waited for
      set = &impl_->sets[static_cast<std::size_t>(impl_->current.load())];
      lock = std::shared_lock(set->mu);
    } while (set != &impl_->sets[static_cast<std::size_t>(impl_->current.load())]);
    const Bf16Scope scope(impl_->cost.bf16, impl_->device.type());
    // forward() is not const, yet runs the graph without changing the module.
    const c10::IValue output =
        const_cast<torch::jit::Module&>(set->optimized ? *set->optimized : set->module)
            .forward(std::move(inputs));
    SIFTD_ASSIGN_OR_RETURN(const std::vector<at::Tensor> columns, impl_->Columns(output, rows));
    std::int64_t at = 0;
    for (const ScoredBatchPtr& batch : batches) {
      const auto n = static_cast<std::int64_t>(batch->candidates.sample_id.size());
      batch->scores.names = impl_->manifest.columns;
      batch->scores.columns.clear();
      for (const at::Tensor& column : columns) {
        const float* data = column.const_data_ptr<float>() + at;
        batch->scores.columns.emplace_back(data, data + n);
      }
      batch->model_version = set->version;
      batch->model_step = set->step;
      at += n;
    }
    return OkStatus();
  } catch (const std::exception& e) {
    return Internal("the scorer failed: " + Cause(e));
  }
}

}  // namespace siftd
