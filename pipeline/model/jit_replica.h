// SPDX-License-Identifier: Apache-2.0
// JitReplica: a TorchScript scorer on one device with two sets of weights. Batches run on the set
// in force; an update is written into the other one and then takes its place, so no batch ever sees
// a mixture, and batches in flight end on the version that they began with. Memory: twice the
// model. Score: any number of threads. Update: one thread (the model thread); it waits for batches
// that still use the idle set.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/artifact.h"
#include "pipeline/data/ports.h"
#include "pipeline/model/device.h"

namespace siftd {

// Why a version was refused; the old one stays in force.
struct UpdateError {
  ErrorCode code = ErrorCode::kNone;
  std::string text;
};

class JitReplica {
 public:
  // Checks every state entry of the manifest against the archive. Loads code: `archive` must be
  // trusted.
  static Result<std::unique_ptr<JitReplica>> Load(const Frame& archive, ArtifactManifest manifest,
                                                  const DeviceName& device, bool refuse_non_finite);
  ~JitReplica();
  JitReplica(const JitReplica&) = delete;
  JitReplica& operator=(const JitReplica&) = delete;

  const ArtifactManifest& manifest() const;

  // kFull: every entry of the manifest; kDelta: some, over the version in force.
  std::optional<UpdateError> Update(const WeightsVersion& weights);

  // Runs the batches as one; fills scores and version of each. On error nothing is filled.
  Status Score(const std::vector<ScoredBatchPtr>& batches) const;

  // Each manifest input is among `tensors` by name, and fits.
  Status CheckInputs(const std::vector<Tensor>& tensors) const;

 private:
  struct Impl;
  explicit JitReplica(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
