// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/selector.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>
#include <variant>

#include "pipeline/select/coin.h"
#include "pipeline/select/policy.h"
#include "pipeline/select/sifting_window.h"

namespace siftd {
namespace {

bool HasColumn(const ScoreTable& scores, const std::string& name) {
  return std::find(scores.names.begin(), scores.names.end(), name) != scores.names.end();
}

const std::vector<float>* FindColumn(const ScoreTable& scores, const std::string& name) {
  for (std::size_t i = 0; i < scores.names.size() && i < scores.columns.size(); ++i) {
    if (scores.names[i] == name) return &scores.columns[i];
  }
  return nullptr;
}

std::string Join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// No policy was chosen anywhere: confidence where the scorer sees logits, else SageMaker's rule.
PolicyOptions Resolve(PolicyOptions options, const ScoreTable& scores) {
  if (!std::holds_alternative<std::monostate>(options.kind)) return options;
  if (HasColumn(scores, "confidence")) {
    options.kind = ConfidenceOptions{};
  } else {
    options.kind = LossCdfOptions{};
  }
  return options;
}

}  // namespace

struct Selector::Impl {
  std::uint64_t run = 0;
  std::shared_ptr<const JobSpec> job;
  PolicyOptions options;  // resolved
  std::string column;
  std::unique_ptr<Policy> policy;
  std::optional<SiftingWindow> window;
  std::vector<float> seed;  // history sample of the newest version
  std::uint64_t seed_run = 0;
  std::uint64_t seed_version = 0;

  // Scratch, reused from batch to batch.
  std::vector<std::uint32_t> finite_rows;
  std::vector<float> finite_score;
  std::vector<double> coin;
  std::vector<std::uint8_t> keep;
  PolicyOutput out;

  void Adopt(const ScoredBatch& batch) {
    if (policy && run == batch.candidates.run && (job == batch.job || *job == *batch.job)) {
      job = batch.job;
      if (batch.candidates.required_version != 0) Restart();
      return;
    }
    run = batch.candidates.run;
    job = batch.job;
    options = Resolve(job->policy, batch.scores);
    column = PolicyColumn(options);
    window.emplace(options.modifiers, job->total_steps);
    Restart();
  }

  // What earlier batches left in the history goes.
  void Restart() {
    policy = MakePolicy(options);
    if (!seed.empty() && seed_run == run) policy->Observe(seed);
  }

  // False, and rejected: the batch requires a version other than the one that scored it.
  bool Exact(ScoredBatch& batch) const {
    const std::uint64_t required = batch.candidates.required_version;
    if (required == 0) return true;
    if (required == batch.model_version && seed_run == run && seed_version == required) return true;
    batch.decision = RejectedDecision(static_cast<std::uint32_t>(batch.candidates.sample_id.size()),
                                      ErrorCode::kStale,
                                      "required_version is " + std::to_string(required) +
                                          "; in force: " + std::to_string(batch.model_version) +
                                          ", with the history of " + std::to_string(seed_version));
    return false;
  }

  // By batch.decision.score.
  void Decide(ScoredBatch& batch) {
    const Candidates& in = batch.candidates;
    Decision& d = batch.decision;
    const std::vector<float>& score = d.score;
    const std::size_t n = score.size();
    finite_rows.clear();
    finite_score.clear();
    coin.clear();
    for (std::size_t i = 0; i < n; ++i) {
      if (!std::isfinite(score[i])) continue;
      finite_rows.push_back(static_cast<std::uint32_t>(i));
      finite_score.push_back(score[i]);
      coin.push_back(Coin(job->seed, in.epoch, i < in.sample_id.size() ? in.sample_id[i] : i,
                          i < in.occurrence.size() ? in.occurrence[i] : 0));
    }
    d.rows = static_cast<std::uint32_t>(n);
    d.kept.clear();
    d.keep_probability.clear();
    d.weight.clear();
    d.percentile.clear();
    d.column = column;
    if (window->InForce(in.key, in.epoch, batch.trainer_step)) {
      policy->Select({finite_score, coin}, &out);
      d.outcome = Outcome::kDecided;
      Fill(n, d);
    } else {
      policy->Observe(finite_score);
      d.outcome = Outcome::kUnsifted;
      d.kept.resize(n);
      std::iota(d.kept.begin(), d.kept.end(), 0u);
    }
  }

  // Spreads the policy's answer for the finite rows over all n.
  void Fill(std::size_t n, Decision& d) {
    const bool keep_bad = options.non_finite == NonFinite::kKeep;
    keep.assign(n, keep_bad ? 1 : 0);
    if (!out.probability.empty()) d.keep_probability.assign(n, keep_bad ? 1.0f : 0.0f);
    if (!out.percentile.empty()) d.percentile.assign(n, 1.0f);
    for (std::size_t j = 0; j < finite_rows.size(); ++j) {
      const std::uint32_t i = finite_rows[j];
      keep[i] = out.keep[j];
      if (!out.probability.empty()) d.keep_probability[i] = out.probability[j];
      if (!out.percentile.empty()) d.percentile[i] = out.percentile[j];
    }
    const auto kept = static_cast<std::size_t>(std::count(keep.begin(), keep.end(), 1));
    d.kept.reserve(kept);
    if (policy->bernoulli()) d.weight.reserve(kept);
    for (std::size_t i = 0; i < n; ++i) {
      if (!keep[i]) continue;
      d.kept.push_back(static_cast<std::uint32_t>(i));
      if (!policy->bernoulli()) continue;
      // Without a finite row the rule was asked for no probability.
      d.weight.push_back(d.keep_probability.empty() ? 1.0f : 1.0f / d.keep_probability[i]);
    }
  }
};

Selector::Selector() : impl_(std::make_unique<Impl>()) {}
Selector::~Selector() = default;

void Selector::Select(ScoredBatch& batch) {
  const auto rows = static_cast<std::uint32_t>(batch.candidates.sample_id.size());
  if (batch.decision.outcome == Outcome::kRejected) return;
  if (batch.pass_through) {
    batch.decision = UnsiftedDecision(rows);
    return;
  }
  impl_->Adopt(batch);
  if (!impl_->Exact(batch)) return;
  const std::vector<float>& prior = batch.candidates.prior_score;
  std::vector<float>& score = batch.decision.score;
  if (CountToScore(batch.candidates) == 0 && HasColumn(batch.scores, impl_->column)) {
    score.assign(prior.begin(), prior.end());
  } else {
    const std::vector<float>* column = FindColumn(batch.scores, impl_->column);
    if (column == nullptr || column->size() != rows) {
      batch.decision = RejectedDecision(rows, ErrorCode::kModelMismatch,
                                        column == nullptr
                                            ? "policy reads score column '" + impl_->column +
                                                  "'; the artifact has: " + Join(batch.scores.names)
                                            : "score column '" + impl_->column + "' has " +
                                                  std::to_string(column->size()) +
                                                  " rows; the batch has " + std::to_string(rows));
      return;
    }
    score.assign(column->begin(), column->end());
    for (std::size_t i = 0; i < std::min(prior.size(), score.size()); ++i) {
      if (!std::isnan(prior[i])) score[i] = prior[i];
    }
  }
  impl_->Decide(batch);
  batch.decision.model_version = batch.model_version;
  batch.decision.model_step = batch.model_step;
  batch.decision.score_seconds = static_cast<float>(Seconds(batch.score_busy));
}

void Selector::SeedHistory(std::uint64_t run, std::uint64_t version, std::vector<float> sample) {
  impl_->seed_run = run;
  impl_->seed_version = version;
  std::erase_if(sample, [](float s) { return !std::isfinite(s); });
  impl_->seed = std::move(sample);
}

}  // namespace siftd
