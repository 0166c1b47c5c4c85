// SPDX-License-Identifier: Apache-2.0
// FixedCostReplica: a scorer that takes a given time and no CPU. Its scores are pseudo-random, a
// function of the sample id; it takes every version of weights and looks at none.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/model/replica.h"

namespace siftd {

struct FixedCost {
  Duration forward{};  // of each forward
  Duration row{};      // of each row, added
};

class FixedCostReplica final : public Replica {
 public:
  FixedCostReplica(ArtifactManifest manifest, const FixedCost& cost);

  const ArtifactManifest& manifest() const override { return manifest_; }
  std::optional<UpdateError> Update(const WeightsVersion& weights) override;
  Status Score(const std::vector<ScoredBatchPtr>& batches) override;
  void Stop() override;

 private:
  const ArtifactManifest manifest_;
  const FixedCost cost_;
  std::mutex mu_;
  std::condition_variable stopping_;
  bool stopped_ = false;       // guarded by mu_
  std::uint64_t version_ = 0;  // guarded by mu_
  std::uint64_t step_ = 0;     // guarded by mu_
};

// Of the column `name`, in the same range as a real one: confidence uniform in [0, 1), any other
// exponential with mean 1.
float FixedCostScore(const std::string& name, std::uint64_t sample_id);

}  // namespace siftd
