// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/policy.h"

#include <variant>

#include "pipeline/select/composer_rank.h"
#include "pipeline/select/confidence.h"
#include "pipeline/select/loss_cdf.h"
#include "pipeline/select/top_k.h"
#include "pipeline/select/uniform.h"

namespace siftd {
namespace {

std::unique_ptr<Policy> Make(std::monostate) { return nullptr; }
std::unique_ptr<Policy> Make(const UniformOptions& o) { return std::make_unique<UniformPolicy>(o); }
std::unique_ptr<Policy> Make(const ConfidenceOptions& o) {
  return std::make_unique<ConfidencePolicy>(o);
}
std::unique_ptr<Policy> Make(const LossCdfOptions& o) { return std::make_unique<LossCdfPolicy>(o); }
std::unique_ptr<Policy> Make(const ComposerRankOptions& o) {
  return std::make_unique<ComposerRankPolicy>(o);
}
std::unique_ptr<Policy> Make(const TopKOptions& o) { return std::make_unique<TopKPolicy>(o); }

}  // namespace

void DrawBernoulli(std::span<const double> coin, PolicyOutput* out) {
  out->keep.resize(coin.size());
  for (std::size_t i = 0; i < coin.size(); ++i) out->keep[i] = coin[i] < out->probability[i];
}

std::unique_ptr<Policy> MakePolicy(const PolicyOptions& options) {
  return std::visit([](const auto& o) { return Make(o); }, options.kind);
}

}  // namespace siftd
