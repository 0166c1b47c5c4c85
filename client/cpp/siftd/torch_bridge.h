// SPDX-License-Identifier: Apache-2.0
// Between siftd's tensors and LibTorch's, and a scorer archive as a module that can be trained:
// C++ modules cannot be exported to TorchScript, so a C++ trainer either trains the archive's own
// module (TorchScorer), or a torch::nn::Module of the same shape whose parameters are matched with
// the archive's by name (NamedWeights). Target siftd::client_torch. Functions: any thread; a
// TorchScorer: one thread at a time.
#pragma once

#include <torch/script.h>

#include <map>
#include <string>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/artifact.h"
#include "pipeline/data/tensor.h"

namespace siftd {

// Shares the memory, which the result keeps alive. REQUIRES: bytes aligned for the dtype, as those
// of a TrainBatch are; others are copied. The caller must not change it while `tensor` is in use.
at::Tensor ToTorch(const Tensor& tensor);

// A copy on the CPU, C-contiguous. Error: a dtype that the wire does not know.
Result<Tensor> FromTorch(const at::Tensor& tensor, std::string name);

// The entries of `manifest` out of `tensors`, in its order: what ModelPublisher::Publish takes.
// `renamed`: manifest name -> name in `tensors`, where they differ. Errors name the entry that is
// missing or has another shape or dtype.
Result<std::vector<Tensor>> NamedWeights(const ArtifactManifest& manifest,
                                         const std::map<std::string, at::Tensor>& tensors,
                                         const std::map<std::string, std::string>& renamed = {});

struct TorchScorer {
  torch::jit::Module module;  // forward(*inputs, *targets) -> columns, each float32 [n]
  ArtifactManifest manifest;
  Frame archive;  // for PublisherOptions::artifact

  // The archive was exported in eval mode: dropout and batch statistics stay off while it is
  // trained. Loads code: `path` must be trusted.
  static Result<TorchScorer> Load(const std::string& path, at::Device device = at::kCPU);

  // What an optimizer takes: all entries that are no buffers, requires_grad set.
  std::vector<at::Tensor> Parameters() const;
  // Loss per row [n] of a batch whose tensors are named as the manifest's inputs.
  at::Tensor Loss(const std::vector<Tensor>& batch);
  Result<std::vector<Tensor>> Weights() const;
};

}  // namespace siftd
