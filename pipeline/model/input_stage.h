// SPDX-License-Identifier: Apache-2.0
// InputStage: the tensors of candidate batches on their way into a forward. On the CPU a batch that
// is scored alone is read where it lies in its frame, unless the scorer writes to that input;
// otherwise rows are copied once, together, and onto a device from pinned memory without waiting.
// Any thread. Internal to pipeline/model.
#pragma once

#include <torch/script.h>

#include <vector>

#include "pipeline/data/artifact.h"
#include "pipeline/data/scored_batch.h"
#include "pipeline/model/device_stream.h"

namespace siftd {

class InputStage {
 public:
  // `module` is read only here.
  InputStage(const ArtifactManifest& manifest, const torch::jit::Module& module, at::Device device);

  // One tensor [rows, ...] per manifest input. On a device they are there once what `copies` holds
  // now is done. Batches and their frames must outlive the tensors.
  std::vector<at::Tensor> Stage(const std::vector<ScoredBatchPtr>& batches,
                                DeviceStream* copies) const;

  // By manifest input: nothing in the scorer writes to it, or to a view of it.
  const std::vector<bool>& read_only() const { return read_only_; }

 private:
  at::Tensor Host(const std::vector<ScoredBatchPtr>& batches, std::size_t input,
                  std::int64_t rows) const;

  const std::vector<TensorSpec> inputs_;
  const std::vector<bool> read_only_;
  const at::Device device_;
};

}  // namespace siftd
