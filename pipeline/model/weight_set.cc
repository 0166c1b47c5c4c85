// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/weight_set.h"

#include <cstring>

#include "pipeline/model/tensor_convert.h"

namespace siftd {
namespace {

constexpr std::size_t kAlign = 16;  // of a tensor in the flat buffer: above any item size

std::size_t Aligned(std::size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace

Status WeightSet::Bind(const ArtifactManifest& manifest) {
  std::unordered_map<std::string, at::Tensor> found;
  for (const auto& p : module.named_parameters()) found.emplace(p.name, p.value);
  for (const auto& b : module.named_buffers()) found.emplace(b.name, b.value);
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
    state.emplace(entry.name, t);
  }
  return OkStatus();
}

void WriteWeights(const WeightsVersion& weights, at::Device device, DeviceStream* stream,
                  WeightSet* set) {
  if (!device.is_cpu()) return WriteWeightsFlat(weights, device, stream, set);
  for (const Tensor& tensor : weights.tensors) set->state.at(tensor.name).copy_(ViewAten(tensor));
}

void WriteWeightsFlat(const WeightsVersion& weights, at::Device device, DeviceStream* stream,
                      WeightSet* set) {
  std::size_t total = 0;
  for (const Tensor& tensor : weights.tensors) total += Aligned(tensor.bytes.size());
  const at::Tensor host = at::empty({static_cast<std::int64_t>(total)},
                                    at::TensorOptions(at::kByte).pinned_memory(!device.is_cpu()));
  auto* to = host.mutable_data_ptr<std::uint8_t>();
  for (const Tensor& tensor : weights.tensors) {
    if (!tensor.bytes.empty()) std::memcpy(to, tensor.bytes.data(), tensor.bytes.size());
    to += Aligned(tensor.bytes.size());
  }
  const DeviceStream::Use use(*stream);
  const at::Tensor there = host.to(device, /*non_blocking=*/true);
  std::int64_t at = 0;
  for (const Tensor& tensor : weights.tensors) {
    const auto bytes = static_cast<std::int64_t>(tensor.bytes.size());
    set->state.at(tensor.name)
        .copy_(there.narrow(0, at, bytes).view(ToScalarType(tensor.dtype)).view(tensor.shape),
               /*non_blocking=*/true);
    at += static_cast<std::int64_t>(Aligned(tensor.bytes.size()));
  }
}

void CopyWeights(const WeightSet& from, DeviceStream* stream, WeightSet* set) {
  const DeviceStream::Use use(*stream);
  for (const auto& [name, tensor] : from.state) set->state.at(name).copy_(tensor, true);
}

}  // namespace siftd
