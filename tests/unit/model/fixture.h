// SPDX-License-Identifier: Apache-2.0
// A scorer made without Python: loss = sum of (x * w) + bias, confidence = 1 / (1 + |loss|).
#pragma once

#include <torch/script.h>

#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "pipeline/data/artifact.h"
#include "pipeline/data/ports.h"

namespace siftd {

inline constexpr std::int64_t kWidth = 3;

inline Frame Archive(const std::string& forward = R"(
def forward(self, x):
    loss = (x * self.w).sum(1) + self.bias
    return loss, 1 / (1 + loss.abs())
)") {
  torch::jit::Module module("Fixture");
  module.register_parameter("w", torch::ones({kWidth}), false);
  module.register_buffer("bias", torch::zeros({}));
  module.define(forward);
  std::ostringstream out;
  module.save(out, {{"siftd.manifest", "the manifest"}});
  return Frame::Adopt(out.str());
}

inline ArtifactManifest Manifest() {
  ArtifactManifest m;
  m.format = 1;
  m.inputs = {{"x", DType::kFloat32, {-1, kWidth}}};
  m.columns = {"loss", "confidence"};
  m.state = {{"w", "w", DType::kFloat32, {kWidth}, false},
             {"bias", "bias", DType::kFloat32, {}, true}};
  return m;
}

inline Tensor Floats(const std::string& name, std::vector<std::int64_t> shape,
                     const std::vector<float>& values) {
  return {name, DType::kFloat32, std::move(shape),
          Frame::Copy(values.data(), values.size() * sizeof(float))};
}

// Every weight and the bias are `value`.
inline WeightsVersion Weights(std::uint64_t version, float value) {
  WeightsVersion w;
  w.run = 1;
  w.version = version;
  w.step = 10 * version;
  w.kind = ModelKind::kFull;
  w.tensors = {Floats("w", {kWidth}, {value, value, value}), Floats("bias", {}, {value})};
  return w;
}

// Rows of ones: with Weights(v, value) each loss is 4 * value.
inline ScoredBatchPtr Ones(std::size_t rows) {
  auto batch = std::make_shared<ScoredBatch>();
  batch->candidates.sample_id.resize(rows);
  batch->candidates.tensors = {Floats("x", {static_cast<std::int64_t>(rows), kWidth},
                                      std::vector<float>(rows * kWidth, 1.0f))};
  return batch;
}

}  // namespace siftd
