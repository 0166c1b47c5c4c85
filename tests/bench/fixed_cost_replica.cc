// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/fixed_cost_replica.h"

#include <cmath>
#include <utility>

namespace siftd {
namespace {

// SplitMix64's finaliser (Steele et al., OOPSLA 2014).
std::uint64_t Mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

}  // namespace

float FixedCostScore(const std::string& name, std::uint64_t sample_id) {
  const bool confidence = name == "confidence";
  const double u = static_cast<double>(Mix(sample_id * 2 + (confidence ? 1 : 0)) >> 11) * 0x1p-53;
  return static_cast<float>(confidence ? u : -std::log1p(-u));
}

FixedCostReplica::FixedCostReplica(ArtifactManifest manifest, const FixedCost& cost)
    : manifest_(std::move(manifest)), cost_(cost) {}

std::optional<UpdateError> FixedCostReplica::Update(const WeightsVersion& weights) {
  const std::lock_guard lock(mu_);
  version_ = weights.version;
  step_ = weights.step;
  return std::nullopt;
}

Status FixedCostReplica::Score(const std::vector<ScoredBatchPtr>& batches) {
  const MonoTime begin = Now();
  std::size_t rows = 0;
  std::unique_lock lock(mu_);
  for (const ScoredBatchPtr& batch : batches) {
    const std::vector<std::uint64_t>& ids = batch->candidates.sample_id;
    rows += ids.size();
    batch->model_version = version_;
    batch->model_step = step_;
    batch->scores.names = manifest_.columns;
    batch->scores.columns.clear();
    for (const std::string& name : manifest_.columns) {
      std::vector<float>& column = batch->scores.columns.emplace_back();
      for (const std::uint64_t id : ids) column.push_back(FixedCostScore(name, id));
    }
  }
  const MonoTime end = begin + cost_.forward + cost_.row * static_cast<int>(rows);
  if (stopping_.wait_until(lock, end, [this] { return stopped_; })) return Unavailable("stopped");
  return OkStatus();
}

void FixedCostReplica::Stop() {
  {
    const std::lock_guard lock(mu_);
    stopped_ = true;
  }
  stopping_.notify_all();
}

}  // namespace siftd
