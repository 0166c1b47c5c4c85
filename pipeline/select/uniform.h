// SPDX-License-Identifier: Apache-2.0
// uniform(keep): every row with the same probability. The control that any other policy has to
// beat.
#pragma once

#include "pipeline/base/status.h"
#include "pipeline/select/policy.h"

namespace siftd {

Status Validate(const UniformOptions& options);

class UniformPolicy final : public Policy {
 public:
  explicit UniformPolicy(const UniformOptions& options) : keep_(options.keep) {}
  void Select(const PolicyInput& in, PolicyOutput* out) override;
  bool bernoulli() const override { return true; }

 private:
  const double keep_;
};

}  // namespace siftd
