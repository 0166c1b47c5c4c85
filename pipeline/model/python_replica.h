// SPDX-License-Identifier: Apache-2.0
// PythonReplica: the user's own Python model and loss in child processes, one per lane, for models
// that can't be exported. A version goes to every child before Update returns; a batch is stamped
// with the version that its child holds. A child that dies or hangs is replaced and gets the
// weights in force again; after kMostDeaths in a row, with no batch scored in between, the replica
// stays down. Memory here: one copy of the weights, the frames that they came in.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/model/python_child.h"
#include "pipeline/model/replica.h"

namespace siftd {

struct PythonReplicaOptions {
  PythonChildOptions child;
  int lanes = 1;  // children
  bool refuse_non_finite = true;
  Duration start_deadline = std::chrono::seconds(120);  // to load the model; to take a version
  Duration score_deadline = std::chrono::seconds(20);   // for one forward
  // What an operator should know, a line each. Any thread.
  std::function<void(const std::string&)> log = [](const std::string&) {};
};

class PythonReplica final : public Replica {
 public:
  static constexpr int kMostDeaths = 5;
  using ParseManifest = std::function<Result<ArtifactManifest>(std::string_view bytes)>;

  // Starts the children and waits for them. This folder knows no protobuf: `parse` reads what a
  // child says of its scorer.
  static Result<std::unique_ptr<PythonReplica>> Start(const PythonReplicaOptions& options,
                                                      const ParseManifest& parse);
  ~PythonReplica() override;

  // Of the scorer, as the children tell it; the same as the publisher's.
  const std::string& sha256() const;
  // Children that ended by themselves or were killed, so far. Any thread.
  std::uint64_t deaths() const;
  // Why it stays down; empty while it does not. Any thread.
  std::string down() const;

  const ArtifactManifest& manifest() const override;
  std::optional<UpdateError> Update(const WeightsVersion& weights) override;
  Status Score(const std::vector<ScoredBatchPtr>& batches) override;
  void Stop() override;

 private:
  struct Impl;
  explicit PythonReplica(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
