// SPDX-License-Identifier: Apache-2.0
// FaultReplica: a FixedCostReplica that writes down what it scores and can be killed by a row. It
// checks weights as a JitReplica does, and that each version arrives whole.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tests/bench/fixed_cost_replica.h"
#include "tests/fault/peers/event_log.h"

namespace siftd::fault {

struct FaultReplicaOptions {
  FixedCost cost;
  bool refuse_non_finite = true;
  std::optional<std::uint64_t> poison;  // a batch with this sample id kills the process
};

class FaultReplica final : public Replica {
 public:
  FaultReplica(ArtifactManifest manifest, const FaultReplicaOptions& options, const EventLog* log);

  const ArtifactManifest& manifest() const override { return inner_.manifest(); }
  std::optional<UpdateError> Update(const WeightsVersion& weights) override;
  Status Score(const std::vector<ScoredBatchPtr>& batches) override;
  void Stop() override { inner_.Stop(); }

 private:
  const FaultReplicaOptions options_;
  const EventLog* const log_;
  FixedCostReplica inner_;
};

}  // namespace siftd::fault
