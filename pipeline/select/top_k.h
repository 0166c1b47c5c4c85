// SPDX-License-Identifier: Apache-2.0
// top_k(keep): the ceil(keep * n) rows of each batch with the highest score ("biggest losers",
// OHEM). Equal scores are ordered by the coin. Known to hurt on ordinary data; offered for
// comparison.
#pragma once

#include "pipeline/base/status.h"
#include "pipeline/select/policy.h"

namespace siftd {

Status Validate(const TopKOptions& options);

class TopKPolicy final : public Policy {
 public:
  explicit TopKPolicy(const TopKOptions& options) : keep_(options.keep) {}
  void Select(const PolicyInput& in, PolicyOutput* out) override;
  bool bernoulli() const override { return false; }

 private:
  const double keep_;
  std::vector<std::uint32_t> order_;  // scratch
};

}  // namespace siftd
