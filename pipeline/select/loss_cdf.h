// SPDX-License-Identifier: Apache-2.0
// loss_cdf(beta): keeps a row with p = clamp(F(loss)^beta, floor, 1), F = its percentile in the
// history; kept fraction 1 / (1 + beta). Selective-Backprop (Jiang et al., arXiv 1910.00762) and
// Amazon SageMaker smart sifting. As in the former's code, a batch enters the history before its
// percentiles are taken, and the comparison is strict.
#pragma once

#include "pipeline/base/status.h"
#include "pipeline/select/loss_history.h"
#include "pipeline/select/policy.h"

namespace siftd {

Status Validate(const LossCdfOptions& options);

class LossCdfPolicy final : public Policy {
 public:
  explicit LossCdfPolicy(const LossCdfOptions& options)
      : options_(options), history_(options.loss_history_length) {}
  void Select(const PolicyInput& in, PolicyOutput* out) override;
  void Observe(std::span<const float> score) override;
  bool bernoulli() const override { return true; }

 private:
  const LossCdfOptions options_;
  LossHistory history_;
};

}  // namespace siftd
