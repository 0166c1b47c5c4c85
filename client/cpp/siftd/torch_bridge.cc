// SPDX-License-Identifier: Apache-2.0
#include "siftd/torch_bridge.h"

#include <memory>
#include <utility>

#include "pipeline/model/artifact_file.h"
#include "pipeline/model/memory_reader.h"
#include "pipeline/model/tensor_convert.h"
#include "pipeline/wire/artifact_codec.h"

namespace siftd {
namespace {

std::string Describe(const std::string& name, const at::Tensor& tensor) {
  return ToString(TensorSpec{name, FromScalarType(tensor.scalar_type()), tensor.sizes().vec()});
}

// By dotted path inside the archive.
std::map<std::string, at::Tensor> StateOf(const torch::jit::Module& module) {
  std::map<std::string, at::Tensor> found;
  for (const auto& p : module.named_parameters()) found.emplace(p.name, p.value);
  for (const auto& b : module.named_buffers()) found.emplace(b.name, b.value);
  return found;
}

std::map<std::string, std::string> ArchiveNames(const ArtifactManifest& manifest) {
  std::map<std::string, std::string> names;
  for (const StateEntry& entry : manifest.state) names.emplace(entry.name, entry.archive_name);
  return names;
}

}  // namespace

at::Tensor ToTorch(const Tensor& tensor) {
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.bytes.data());
  if (tensor.bytes.empty() || address % ItemSize(tensor.dtype) != 0) return CopyToAten(tensor);
  // ATen has no tensor of constant bytes.
  return at::from_blob(
      const_cast<std::uint8_t*>(tensor.bytes.data()), tensor.shape,
      [owner = tensor.bytes.owner()](void*) {}, at::TensorOptions(ToScalarType(tensor.dtype)));
}

Result<Tensor> FromTorch(const at::Tensor& tensor, std::string name) {
  Tensor out;
  out.dtype = FromScalarType(tensor.scalar_type());
  if (out.dtype == DType::kUnspecified) {
    return InvalidArgument("'" + name + "' has dtype " + c10::toString(tensor.scalar_type()) +
                           "; allowed: bool, integers, float16, bfloat16, float32, float64");
  }
  out.name = std::move(name);
  out.shape = tensor.sizes().vec();
  // Always a copy: the caller goes on changing its weights.
  auto copy = std::make_shared<const at::Tensor>(
      tensor.detach().to(at::kCPU, tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true,
                         at::MemoryFormat::Contiguous));
  const void* data = copy->const_data_ptr();
  const std::size_t size = copy->nbytes();
  out.bytes = Frame(std::move(copy), data, size);
  return out;
}

Result<std::vector<Tensor>> NamedWeights(const ArtifactManifest& manifest,
                                         const std::map<std::string, at::Tensor>& tensors,
                                         const std::map<std::string, std::string>& renamed) {
  std::vector<Tensor> weights;
  for (const StateEntry& entry : manifest.state) {
    const auto other = renamed.find(entry.name);
    const std::string& name = other == renamed.end() ? entry.name : other->second;
    const auto it = tensors.find(name);
    const std::string wanted = ToString(TensorSpec{entry.name, entry.dtype, entry.shape});
    if (it == tensors.end())
      return InvalidArgument(std::string("the module has no '")
                                 .append(name)
                                 .append("'; the scorer takes ")
                                 .append(wanted));
    if (it->second.sizes() != at::IntArrayRef(entry.shape) ||
        FromScalarType(it->second.scalar_type()) != entry.dtype) {
      return InvalidArgument("the module has " + Describe(name, it->second) +
                             "; the scorer takes " + wanted);
    }
    SIFTD_ASSIGN_OR_RETURN(Tensor weight, FromTorch(it->second, entry.name));
    weights.push_back(std::move(weight));
  }
  return weights;
}

Result<TorchScorer> TorchScorer::Load(const std::string& path, at::Device device) {
  TorchScorer scorer;
  SIFTD_ASSIGN_OR_RETURN(scorer.archive, ReadFile(path));
  SIFTD_ASSIGN_OR_RETURN(const std::string manifest, ReadManifest(scorer.archive));
  SIFTD_ASSIGN_OR_RETURN(scorer.manifest, ParseManifest(manifest));
  try {
    scorer.module = torch::jit::load(std::make_shared<MemoryReader>(scorer.archive), device);
  } catch (const std::exception& e) {
    const std::string text = e.what();
    return InvalidArgument("cannot load '" + path + "': " + text.substr(0, text.find('\n')));
  }
  const auto state = StateOf(scorer.module);
  for (const StateEntry& entry : scorer.manifest.state) {
    const auto it = state.find(entry.archive_name);
    if (it == state.end())
      return InvalidArgument("'" + path + "' has no '" + entry.archive_name + "' of its manifest");
    if (!entry.is_buffer && it->second.is_floating_point()) it->second.requires_grad_(true);
  }
  return scorer;
}

std::vector<at::Tensor> TorchScorer::Parameters() const {
  const auto state = StateOf(module);
  std::vector<at::Tensor> parameters;
  for (const StateEntry& entry : manifest.state) {
    const at::Tensor& tensor = state.at(entry.archive_name);
    if (tensor.requires_grad()) parameters.push_back(tensor);
  }
  return parameters;
}

at::Tensor TorchScorer::Loss(const std::vector<Tensor>& batch) {
  std::vector<c10::IValue> inputs;
  const auto state = StateOf(module);
  const at::Device device = state.empty() ? at::Device(at::kCPU) : state.begin()->second.device();
  for (const TensorSpec& spec : manifest.inputs) {
    for (const Tensor& tensor : batch) {
      if (tensor.name == spec.name) inputs.emplace_back(ToTorch(tensor).to(device));
    }
  }
  const c10::IValue out = module.forward(std::move(inputs));
  return out.isTensor() ? out.toTensor() : out.toTupleRef().elements()[0].toTensor();
}

Result<std::vector<Tensor>> TorchScorer::Weights() const {
  return NamedWeights(manifest, StateOf(module), ArchiveNames(manifest));
}

}  // namespace siftd
