// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/input_stage.h"

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <cstring>

#include "pipeline/model/tensor_convert.h"

namespace siftd {
namespace {

std::vector<bool> ReadOnly(const torch::jit::Module& module, std::size_t inputs) {
  std::vector<bool> read_only(inputs, false);
  const auto method = module.find_method("forward");
  if (!method) return read_only;
  const std::shared_ptr<torch::jit::Graph> graph = method->graph()->copy();
  torch::jit::Inline(*graph);
  const torch::jit::AliasDb aliases(graph);
  for (std::size_t i = 0; i < inputs && i + 1 < graph->inputs().size(); ++i) {
    read_only[i] = !aliases.hasWriters(graph->inputs()[i + 1]);  // the first one is self
  }
  return read_only;
}

const Tensor* Find(const ScoredBatch& batch, const std::string& name) {
  for (const Tensor& tensor : batch.candidates.tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

}  // namespace

InputStage::InputStage(const ArtifactManifest& manifest, const torch::jit::Module& module,
                       at::Device device)
    : inputs_(manifest.inputs),
      read_only_(ReadOnly(module, manifest.inputs.size())),
      device_(device) {}

at::Tensor InputStage::Host(const std::vector<ScoredBatchPtr>& batches, std::size_t input,
                            std::int64_t rows) const {
  const std::string& name = inputs_[input].name;
  if (batches.size() == 1 && device_.is_cpu() && read_only_[input]) {
    return ViewAten(*Find(*batches[0], name));
  }
  at::Tensor out;
  std::uint8_t* to = nullptr;
  for (const ScoredBatchPtr& batch : batches) {
    const Tensor& tensor = *Find(*batch, name);
    if (to == nullptr) {
      std::vector<std::int64_t> shape = tensor.shape;
      shape[0] = rows;
      out = at::empty(
          shape, at::TensorOptions(ToScalarType(tensor.dtype)).pinned_memory(!device_.is_cpu()));
      to = static_cast<std::uint8_t*>(out.data_ptr());
    }
    if (!tensor.bytes.empty()) std::memcpy(to, tensor.bytes.data(), tensor.bytes.size());
    to += tensor.bytes.size();
  }
  return out;
}

std::vector<at::Tensor> InputStage::Stage(const std::vector<ScoredBatchPtr>& batches,
                                          DeviceStream* copies) const {
  std::int64_t rows = 0;
  for (const ScoredBatchPtr& batch : batches)
    rows += static_cast<std::int64_t>(batch->candidates.sample_id.size());
  const DeviceStream::Use use(*copies);
  std::vector<at::Tensor> staged;
  for (std::size_t i = 0; i < inputs_.size(); ++i)
    staged.push_back(Host(batches, i, rows).to(device_, /*non_blocking=*/true));
  return staged;
}

}  // namespace siftd
