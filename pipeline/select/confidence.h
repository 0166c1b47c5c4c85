// SPDX-License-Identifier: Apache-2.0
// confidence(tau, floor): keeps a row with p = clamp((1 - p_max) / tau, floor, 1), p_max = the
// largest softmax probability. Needs neither label nor history, and its keep rate falls as the
// model learns.
#pragma once

#include "pipeline/base/status.h"
#include "pipeline/select/policy.h"

namespace siftd {

Status Validate(const ConfidenceOptions& options);

class ConfidencePolicy final : public Policy {
 public:
  explicit ConfidencePolicy(const ConfidenceOptions& options) : options_(options) {}
  // score: p_max of each row.
  void Select(const PolicyInput& in, PolicyOutput* out) override;
  bool bernoulli() const override { return true; }

 private:
  const ConfidenceOptions options_;
};

}  // namespace siftd
