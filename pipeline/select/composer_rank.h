// SPDX-License-Identifier: Apache-2.0
// composer_rank(keep): exactly int(keep * n) rows of each batch, drawn without replacement with
// weight
// ((rank + 0.5) / n)^(1 / keep - 1), rank by ascending loss. MosaicML Composer's SelectiveBackprop.
// The draw takes the smallest exponential keys -ln(1 - u) / weight (Efraimidis and Spirakis 2006),
// which has the same distribution.
#pragma once

#include "pipeline/base/status.h"
#include "pipeline/select/policy.h"

namespace siftd {

Status Validate(const ComposerRankOptions& options);

class ComposerRankPolicy final : public Policy {
 public:
  explicit ComposerRankPolicy(const ComposerRankOptions& options) : keep_(options.keep) {}
  void Select(const PolicyInput& in, PolicyOutput* out) override;
  bool bernoulli() const override { return false; }

 private:
  const double keep_;
  std::vector<std::uint32_t> order_;  // scratch
  std::vector<double> key_;           // scratch
};

}  // namespace siftd
