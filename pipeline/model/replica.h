// SPDX-License-Identifier: Apache-2.0
// Replica: a copy of the trainer's model that scores, whatever runs it. Score, CheckInputs: any
// number of threads. Update: one thread (the model thread). Stop: any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/artifact.h"
#include "pipeline/data/decision.h"
#include "pipeline/data/scored_batch.h"

namespace siftd {

// Why a version was refused; the old one stays in force.
struct UpdateError {
  ErrorCode code = ErrorCode::kNone;
  std::string text;
};

class Replica {
 public:
  Replica() = default;
  Replica(const Replica&) = delete;
  Replica& operator=(const Replica&) = delete;
  virtual ~Replica() = default;

  virtual const ArtifactManifest& manifest() const = 0;

  // kFull: every entry of the manifest; kDelta: some, over the version in force. A batch is scored
  // on one version, the one that it is stamped with, never on a mixture.
  virtual std::optional<UpdateError> Update(const WeightsVersion& weights) = 0;

  // Runs the batches as one; fills scores and version of each. On error nothing is filled.
  // kUnavailable: the replica failed while it held them, perhaps not by their fault; any other
  // error is theirs (kDeadlineExceeded: the forward took too long).
  virtual Status Score(const std::vector<ScoredBatchPtr>& batches) = 0;

  // Ends every wait, now and later, with an error. For good.
  virtual void Stop() {}

  // Each manifest input is among `tensors` by name, and fits.
  Status CheckInputs(const std::vector<Tensor>& tensors) const;
};

}  // namespace siftd
