// SPDX-License-Identifier: Apache-2.0
#include "tests/fault/peers/fault_replica.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>

#include "pipeline/model/weights_check.h"

namespace siftd::fault {
namespace {

// Every number of a version is the version (fault_trainer.cc).
bool Whole(const WeightsVersion& weights) {
  for (const Tensor& tensor : weights.tensors) {
    if (tensor.name != "weight" || tensor.dtype != DType::kFloat32 || tensor.shape.size() != 1)
      continue;  // another publisher's
    for (std::size_t at = 0; at + sizeof(float) <= tensor.bytes.size(); at += sizeof(float)) {
      float value = 0;
      std::memcpy(&value, tensor.bytes.data() + at, sizeof(value));
      if (value == value && value != static_cast<float>(weights.version)) return false;
    }
  }
  return true;
}

}  // namespace

FaultReplica::FaultReplica(ArtifactManifest manifest, const FaultReplicaOptions& options,
                           const EventLog* log)
    : options_(options), log_(log), inner_(std::move(manifest), options.cost) {}

std::optional<UpdateError> FaultReplica::Update(const WeightsVersion& weights) {
  if (auto error = CheckWeights(manifest(), weights)) return error;
  if (options_.refuse_non_finite) {
    if (auto error = CheckFinite(weights)) return error;
  }
  log_->Write(Event("update")
                  .Put("run", weights.run)
                  .Put("version", weights.version)
                  .Put("whole", Whole(weights) ? 1 : 0));
  return inner_.Update(weights);
}

Status FaultReplica::Score(const std::vector<ScoredBatchPtr>& batches) {
  for (const ScoredBatchPtr& batch : batches) {
    const Candidates& c = batch->candidates;
    log_->Write(Event("scoring")
                    .Put("key", c.key)
                    .Put("run", c.run)
                    .Put("attempt", c.attempt)
                    .Put("suspect", c.suspect ? 1 : 0)
                    .Put("together", batches.size()));
  }
  for (const ScoredBatchPtr& batch : batches) {
    const std::vector<std::uint64_t>& ids = batch->candidates.sample_id;
    if (options_.poison && std::count(ids.begin(), ids.end(), *options_.poison) > 0)
      kill(getpid(), SIGKILL);
  }
  SIFTD_RETURN_IF_ERROR(inner_.Score(batches));
  for (const ScoredBatchPtr& batch : batches) {
    log_->Write(Event("scored")
                    .Put("key", batch->candidates.key)
                    .Put("run", batch->candidates.run)
                    .Put("version", batch->model_version));
  }
  return OkStatus();
}

}  // namespace siftd::fault
