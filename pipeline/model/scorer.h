// SPDX-License-Identifier: Apache-2.0
// Scorer: the model side of a worker. Owns the replica and the lane threads that run it; LibTorch
// stays inside. Submit, CheckInputs: any thread. LoadArtifact, Update: the model thread. Close:
// once, from the owner.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "pipeline/base/status.h"
#include "pipeline/data/ports.h"
#include "pipeline/model/device.h"
#include "pipeline/model/jit_replica.h"

namespace siftd {

struct ScorerOptions {
  DeviceName device;
  int lanes = 1;    // forwards at a time
  int threads = 1;  // LibTorch's threads of each lane
  bool refuse_non_finite = true;
};

class Scorer final : public ScorerPort {
 public:
  // Without a model: batches are rejected with kNoModel until LoadArtifact.
  explicit Scorer(const ScorerOptions& options);
  ~Scorer() override;

  // Takes the place of an earlier artifact; on error that one stays.
  Status LoadArtifact(const Frame& archive, ArtifactManifest manifest);
  std::optional<UpdateError> Update(const WeightsVersion& weights);
  bool loaded() const;

  void Submit(ScoreGroupPtr group, std::function<void(ScoreGroupPtr)> done) override;
  Status CheckInputs(const std::vector<Tensor>& tensors) const override;

  // Answers what is pending with kDraining and ends the lanes.
  void Close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
