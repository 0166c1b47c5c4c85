// SPDX-License-Identifier: Apache-2.0
// WeightSet: one complete set of a TorchScript scorer's weights, with the module that runs on it.
// Internal to pipeline/model.
#pragma once

#include <torch/script.h>

#include <cstdint>
#include <optional>
#include <shared_mutex>
#include <string>
#include <unordered_map>

#include "pipeline/base/status.h"
#include "pipeline/data/artifact.h"
#include "pipeline/model/device_stream.h"

namespace siftd {

struct WeightSet {
  mutable std::shared_mutex mu;  // shared while a batch runs on it, exclusive while it is rewritten
  torch::jit::Module module;
  std::optional<torch::jit::Module> optimized;        // runs in its place
  std::unordered_map<std::string, at::Tensor> state;  // by StateEntry::name
  std::uint64_t version = 0;
  std::uint64_t step = 0;

  // Finds every state entry of the manifest in the module; its type and shape must be the entry's.
  Status Bind(const ArtifactManifest& manifest);
};

// Writes the tensors of a version, which fit, into the set, cast to what it holds. On a device: one
// transfer of all bytes from pinned memory over `stream`, then copies on the device; `stream` must
// be waited for. REQUIRES: set->mu held exclusively
void WriteWeights(const WeightsVersion& weights, at::Device device, DeviceStream* stream,
                  WeightSet* set);
// The same, always with one transfer; on the CPU this is one copy more.
void WriteWeightsFlat(const WeightsVersion& weights, at::Device device, DeviceStream* stream,
                      WeightSet* set);
// All weights of `from`, which is on the same device.
void CopyWeights(const WeightSet& from, DeviceStream* stream, WeightSet* set);

}  // namespace siftd
