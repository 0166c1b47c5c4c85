// SPDX-License-Identifier: Apache-2.0
// Scorer: the model side of a worker. Owns the replica and the lane threads that run it; LibTorch
// stays inside. Submit, CheckInputs: any thread. LoadArtifact, Use, Update: the model thread, or
// before there is one. Close: from the owner.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "pipeline/base/status.h"
#include "pipeline/data/ports.h"
#include "pipeline/model/device.h"
#include "pipeline/model/replica.h"
#include "pipeline/model/score_cost.h"

namespace siftd {

// Makes a replica out of a scorer archive and the manifest in it.
using ReplicaLoader = std::function<Result<std::shared_ptr<Replica>>(const Frame& archive,
                                                                     ArtifactManifest manifest)>;

struct ScorerOptions {
  DeviceName device;
  int lanes = 1;    // forwards at a time
  int threads = 1;  // LibTorch's threads of each lane
  bool refuse_non_finite = true;
  ScoreCost cost;      // of a JitReplica
  ReplicaLoader load;  // of LoadArtifact; empty: a JitReplica
};

class Scorer final : public ScorerPort {
 public:
  // Without a model: batches are rejected with kNoModel until LoadArtifact or Use.
  explicit Scorer(const ScorerOptions& options);
  ~Scorer() override;

  // Takes the place of an earlier replica; on error that one stays. An error also says what
  // options.cost asks for and this scorer can't do.
  Status LoadArtifact(const Frame& archive, ArtifactManifest manifest);
  void Use(std::shared_ptr<Replica> replica);
  std::optional<UpdateError> Update(const WeightsVersion& weights);
  bool loaded() const;

  void Submit(ScoreGroupPtr group, std::function<void(ScoreGroupPtr)> done) override;
  Status CheckInputs(const std::vector<Tensor>& tensors) const override;
  std::vector<std::string> Columns() const override;

  // Answers what is pending with kDraining, stops the replica and ends the lanes. Safe to call
  // twice.
  void Close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
