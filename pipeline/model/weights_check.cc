// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/weights_check.h"

#include <ATen/ATen.h>

#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "pipeline/model/tensor_convert.h"

namespace siftd {
namespace {

UpdateError Mismatch(std::string text) { return {ErrorCode::kModelMismatch, std::move(text)}; }

}  // namespace

std::optional<UpdateError> CheckWeights(const ArtifactManifest& manifest,
                                        const WeightsVersion& weights) {
  std::unordered_map<std::string_view, const StateEntry*> state;
  for (const StateEntry& entry : manifest.state) state.emplace(entry.name, &entry);
  std::unordered_set<std::string_view> seen;
  for (const Tensor& tensor : weights.tensors) {
    const auto it = state.find(tensor.name);
    if (it == state.end())
      return Mismatch("weights hold '" + tensor.name + "', which the scorer does not have");
    if (!seen.insert(tensor.name).second)
      return Mismatch("weights name '" + tensor.name + "' twice");
    const StateEntry& want = *it->second;
    if (tensor.dtype != want.dtype || tensor.shape != want.shape) {
      return Mismatch(
          "weights hold " + ToString(TensorSpec{tensor.name, tensor.dtype, tensor.shape}) +
          "; the scorer takes " + ToString(TensorSpec{want.name, want.dtype, want.shape}));
    }
    if (Status status = Validate(tensor); !status.ok()) return Mismatch(status.message());
  }
  if (weights.kind != ModelKind::kFull || seen.size() == manifest.state.size()) return std::nullopt;
  for (const StateEntry& entry : manifest.state) {
    if (!seen.contains(entry.name)) {
      return Mismatch("weights lack '" + entry.name + "' (" + std::to_string(seen.size()) + " of " +
                      std::to_string(manifest.state.size()) + " entries)");
    }
  }
  return std::nullopt;
}

std::optional<UpdateError> CheckFinite(const WeightsVersion& weights) {
  for (const Tensor& tensor : weights.tensors) {
    const at::Tensor values = ViewAten(tensor);
    if (values.is_floating_point() && !values.isfinite().all().item<bool>()) {
      return UpdateError{ErrorCode::kModelNotFinite,
                         "weights '" + tensor.name + "' hold NaN or infinity"};
    }
  }
  return std::nullopt;
}

}  // namespace siftd
