// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "pipeline/net/key_files.h"
#include "pipeline/select/selector.h"
#include "pipeline/wire/policy_codec.h"
#include "tests/fuzz/targets.h"
#include "worker/config.h"

namespace siftd::fuzz {
namespace {

// Two batches of the same scores under `spec`.
void Decide(const JobSpec& spec) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::vector<float> scores{0.5f, -1.0f, 3e38f, std::nanf(""), kInf, 0.5f, -kInf};
  Selector selector;
  for (std::uint64_t seq = 0; seq < 2; ++seq) {
    ScoredBatch batch;
    batch.job = std::make_shared<const JobSpec>(spec);
    batch.candidates.run = 1;
    batch.candidates.key.seq = seq;
    batch.candidates.sample_id.assign(scores.size(), seq);
    batch.scores.names = {"loss", "confidence"};
    batch.scores.columns = {scores, scores};
    selector.Select(batch);
    const Decision& d = batch.decision;
    Demand(d.rows == scores.size(), "every row is decided");
    for (const std::uint32_t row : d.kept) Demand(row < d.rows, "a kept row is one of the batch");
    for (const float p : d.keep_probability) Demand(p >= 0 && p <= 1, "p is a probability");
    Demand(d.weight.empty() || d.weight.size() == d.kept.size(), "a weight for each kept row");
  }
}

}  // namespace

void FuzzPolicy(Input input) {
  v1::JobSpec proto;
  if (!proto.ParseFromArray(input.data(), static_cast<int>(input.size()))) return;
  const auto spec = wire::From(proto);
  if (!spec.ok()) return;
  v1::JobSpec written;
  wire::To(*spec, &written);
  const bool in_range = Validate(spec->policy).ok();
  const auto again = wire::From(written);
  Demand(again.ok(), "what was read can be written");
  if (!in_range) return;
  Demand(*again == *spec, "and says the same");
  Demand(!ToString(spec->policy).empty(), "a policy can be shown");
  Decide(*spec);
}

void FuzzConfig(Input input) {
  const std::string text(reinterpret_cast<const char*>(input.data()), input.size());
  WorkerConfig config;
  if (const Status read = ParseConfig(text, "fuzz", &config); !read.ok()) {
    Demand(!read.message().empty(), "an error says something");
    return;
  }
  const bool valid = config.Validate().ok();
  const std::string written = ConfigText(config);
  WorkerConfig again;
  const Status read = ParseConfig(written, "written", &again);
  if (!valid) return;
  Demand(read.ok(), "what was read can be written");
  Demand(ConfigText(again) == written, "and says the same");
}

void FuzzKeyFile(Input input) {
  const std::string text(reinterpret_cast<const char*>(input.data()), input.size());
  const auto is_key = [](const std::string& key) {
    return key.size() == 40 &&
           std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c <= '~'; });
  };
  const auto secret = ParseSecretKey(text, "f");
  const auto open = ParsePublicKey(text, "f");
  Demand(!secret.ok() || !open.ok(), "a secret file is no public one");
  for (const Status& status : {secret.status(), open.status()}) {
    Demand(status.ok() || status.message().size() < 200, "an error is one line");
    Demand(!secret.ok() || status.message().find(secret->secret_key) == std::string::npos,
           "no error shows a secret");
  }
  if (secret.ok()) {
    Demand(is_key(secret->public_key) && is_key(secret->secret_key), "what is read are keys");
    const auto again = ParseSecretKey(KeyFileText("x", secret->public_key, secret->secret_key), "");
    Demand(again.ok() && again->secret_key == secret->secret_key, "what is read can be written");
  }
  if (open.ok()) {
    Demand(is_key(*open), "what is read is a key");
    const auto again = ParsePublicKey(KeyFileText("x", *open, ""), "");
    Demand(again.ok() && *again == *open, "what is read can be written");
  }
}

}  // namespace siftd::fuzz
