// SPDX-License-Identifier: Apache-2.0
// JitReplica: a TorchScript scorer on one device with two sets of weights. Batches run on the set
// in force; an update is written into the other one and then takes its place, so no batch ever sees
// a mixture, and batches in flight end on the version that they began with. Memory: twice the
// model. Score: any number of threads. Update: one thread (the model thread); it waits for batches
// that still use the idle set.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "pipeline/base/frame.h"
#include "pipeline/base/status.h"
#include "pipeline/model/device.h"
#include "pipeline/model/replica.h"
#include "pipeline/model/score_cost.h"

namespace siftd {

class JitReplica final : public Replica {
 public:
  // Checks every state entry of the manifest against the archive, and by a forward that the scorer
  // can do what `cost` asks for. Loads code: `archive` must be trusted.
  static Result<std::unique_ptr<JitReplica>> Load(const Frame& archive, ArtifactManifest manifest,
                                                  const DeviceName& device, bool refuse_non_finite,
                                                  const ScoreCost& cost = {});
  ~JitReplica() override;

  const ArtifactManifest& manifest() const override;
  std::optional<UpdateError> Update(const WeightsVersion& weights) override;
  Status Score(const std::vector<ScoredBatchPtr>& batches) override;

 private:
  struct Impl;
  explicit JitReplica(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
