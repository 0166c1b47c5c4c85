// SPDX-License-Identifier: Apache-2.0
// What a scorer artifact says about itself (proto/siftd/v1/artifact.proto), and one version of its
// weights. Values; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pipeline/data/tensor.h"

namespace siftd {

struct StateEntry {
  std::string name;          // the publisher's
  std::string archive_name;  // dotted path inside the archive
  DType dtype = DType::kUnspecified;
  std::vector<std::int64_t> shape;
  bool is_buffer = false;
};

struct ArtifactManifest {
  std::uint32_t format = 0;
  std::string torch_version;
  std::string model;
  std::vector<TensorSpec> inputs;    // forward()'s arguments, in order
  std::vector<std::string> columns;  // forward()'s outputs, each float32 [n]
  std::vector<StateEntry> state;
};

enum class ModelKind : std::uint8_t { kUnspecified = 0, kFull = 1, kDelta = 2, kArtifact = 3 };

// A complete, digest-checked version of weights, not yet checked against a manifest.
struct WeightsVersion {
  std::uint64_t run = 0;
  std::uint64_t version = 0;
  std::uint64_t step = 0;
  ModelKind kind = ModelKind::kUnspecified;
  std::vector<Tensor> tensors;  // kFull, kDelta: named as StateEntry::name
  Frame archive;                // kArtifact
  std::vector<float> history;
};

}  // namespace siftd
