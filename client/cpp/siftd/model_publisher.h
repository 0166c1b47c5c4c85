// SPDX-License-Identifier: Apache-2.0
// ModelPublisher: sends versions of the weights to all workers, each at its own pace, newest only.
// Publish copies the weights and returns; hashing and sending happen on threads of its own, so the
// training loop never waits for the network. All methods: any thread.
//
//   auto publisher = siftd::ModelPublisher::Connect({.client = {...}, .run = trainer->run()});
//   (*publisher)->Publish(step, weights);            // named as in the scorer's manifest
//   (*publisher)->WaitApplied(1, 2, deadline);       // before the first batch, if you like
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/frame.h"
#include "pipeline/base/status.h"
#include "pipeline/data/tensor.h"
#include "siftd/client_options.h"

namespace siftd {

struct PublisherOptions {
  ClientOptions client;
  std::uint64_t run = 0;  // of the job's trainers, > 0
  // A scorer archive that siftd.export_scorer made, for workers that have none; they take it only
  // if they were started with --allow-artifact-upload. Empty: they load it from a path.
  Frame artifact;

  Status Validate() const;
};

class ModelPublisher {
 public:
  static Result<std::unique_ptr<ModelPublisher>> Connect(PublisherOptions options);
  // Versions that are not sent by then are not sent.
  ~ModelPublisher();

  // All entries of the scorer's state, as they are after `step`. Replaces a version that was not
  // sent yet. `history`: recent scores, for workers that join (TrainerClient::recent_scores). The
  // version's number, from 1.
  Result<std::uint64_t> Publish(std::uint64_t step, const std::vector<Tensor>& weights,
                                std::vector<float> history = {});

  // Until `workers` workers score with `version` or a newer one. Errors: kDeadlineExceeded, or a
  // worker's refusal.
  Status WaitApplied(std::uint64_t version, std::size_t workers, Duration timeout);

  // What workers refused, newest last; at most 20.
  std::vector<std::string> refusals() const;

 private:
  struct Impl;
  explicit ModelPublisher(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
