// SPDX-License-Identifier: Apache-2.0
// ModelThread: stages, checks and swaps in model versions, off the I/O thread. Post, Discard: the
// I/O thread. `done` is called on the model thread. It never touches a socket.
#pragma once

#include <functional>
#include <string>
#include <variant>

#include "pipeline/base/bounded_queue.h"
#include "pipeline/base/thread.h"
#include "pipeline/data/messages.h"
#include "pipeline/model/scorer.h"
#include "pipeline/wire/weights_staging.h"

namespace siftd {

// The answer to one ModelBegin, ModelChunk or ModelCommit; Begin alone has none unless it is
// refused.
struct ModelResult {
  ModelAck ack;
  std::uint64_t step = 0;       // of the version, when applied
  std::string artifact_sha256;  // of the artifact, when one was applied
  std::vector<float> history;   // that came with the version, when applied
};

class ModelThread {
 public:
  // `scorer` outlives it.
  ModelThread(std::uint64_t max_model_bytes, Scorer* scorer, std::function<void(ModelResult)> done);
  ~ModelThread();

  // False: the queue is full, because the publisher sent more chunks than it may.
  [[nodiscard]] bool Post(Message work);
  void Discard();

 private:
  struct DiscardToken {};
  using Work = std::variant<Message, DiscardToken>;

  void Run();
  void Handle(const ModelBegin& begin);
  void Handle(const ModelChunk& chunk);
  void Handle(const ModelCommit& commit);
  std::optional<Refusal> Apply(const WeightsVersion& version, ModelResult* result);
  void Answer(std::uint64_t run, std::uint64_t version, const std::optional<Refusal>& refusal,
              ModelResult result);

  Scorer* const scorer_;
  const std::function<void(ModelResult)> done_;
  WeightsStaging staging_;
  BoundedQueue<Work> queue_{64};
  Thread thread_;
};

// Reads, checks and loads the scorer archive at `path`; its SHA-256 in hexadecimal. `pinned`: the
// only one allowed; empty: any. `note`: a warning, or empty.
Result<std::string> LoadArtifactFile(const std::string& path, const std::string& pinned,
                                     Scorer* scorer, std::string* note);

}  // namespace siftd
