// SPDX-License-Identifier: Apache-2.0
// What ScoreCost does to a TorchScript scorer's weights and inputs. Internal to pipeline/model.
#pragma once

#include <torch/script.h>

#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/artifact.h"
#include "pipeline/model/score_cost.h"

namespace siftd {

// Floating-point tensors of two or more dimensions as bfloat16. Others stay as they are: biases,
// norms with their statistics, one number per row; they cost nothing, and scores would suffer.
at::Tensor AsBf16(const at::Tensor& tensor);
// All parameters and buffers so, in place. An archive's constants stay as they were traced.
void WeightsAsBf16(torch::jit::Module* module);

// The scorer of `archive` with the parameters and buffers of `of`, frozen, folded and fused for
// this CPU. Loaded anew, since what is frozen out of a module lives as long as that does: a copy of
// all weights for each version. Throws what LibTorch throws.
torch::jit::Module Optimized(const Frame& archive, const torch::jit::Module& of);

// Operators cast to bfloat16 what meets such weights, and compute losses in float32, on this thread
// while it lives. Its cache is off: weights change under it.
class Bf16Scope {
 public:
  Bf16Scope(bool on, at::DeviceType device);
  ~Bf16Scope();
  Bf16Scope(const Bf16Scope&) = delete;
  Bf16Scope& operator=(const Bf16Scope&) = delete;

 private:
  const bool on_;
  const at::DeviceType device_;
  bool was_enabled_ = false;
  bool was_cached_ = false;
  at::ScalarType was_dtype_ = at::kBFloat16;
};

// An input as a forward of this cost takes it.
at::Tensor Cheap(const at::Tensor& input, const ScoreCost& cost);

// That the scorer of `archive` can do what `cost` asks for. `module`: the same scorer, its weights
// as `cost` has them. Tries both on made-up batches: refused is what the archive as it is can
// compute, and the cheaper one can't. The inputs that it tried; none where it could make up no
// batch of this model, and so knows nothing.
Result<std::vector<at::Tensor>> TryCost(const Frame& archive, const ArtifactManifest& manifest,
                                        at::Device device, const ScoreCost& cost,
                                        torch::jit::Module* module);

// Runs `module` until its executor has done its work on the graph, which else the next batches
// would wait for.
void WarmUp(torch::jit::Module* module, const std::vector<at::Tensor>& inputs,
            const ScoreCost& cost);

// What an exception of LibTorch says, in a line. Its messages carry backtraces.
std::string Cause(const std::exception& error);

}  // namespace siftd
