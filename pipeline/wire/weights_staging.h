// SPDX-License-Identifier: Apache-2.0
// WeightsStaging: gathers the chunks of one model version and gives it out only when it is whole:
// every chunk's CRC-32 and the digest of all bytes agree. One thread (the model thread). A refused
// transfer leaves nothing behind.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "pipeline/wire/digest.h"

namespace siftd {

// Why a transfer or version was refused, in the wire's terms.
struct Refusal {
  ErrorCode code = ErrorCode::kNone;
  std::string text;
};

class WeightsStaging {
 public:
  // Larger models are refused before any memory is taken.
  explicit WeightsStaging(std::uint64_t max_bytes) : max_bytes_(max_bytes) {}

  // Drops what was staged and starts anew.
  std::optional<Refusal> Begin(const ModelBegin& begin);
  // Chunks come in any order, each once.
  std::optional<Refusal> Chunk(const ModelChunk& chunk);
  // The version, its tensors being views of one buffer; nothing stays staged.
  std::optional<Refusal> Commit(const ModelCommit& commit, WeightsVersion* out);
  void Discard();

  std::uint32_t chunks_received() const { return received_; }

 private:
  std::optional<Refusal> Refuse(ErrorCode code, std::string text);
  std::uint64_t ChunkSize(std::uint32_t index) const;

  const std::uint64_t max_bytes_;
  std::optional<ModelBegin> begin_;
  std::shared_ptr<std::uint8_t[]> bytes_;
  std::vector<bool> have_;
  std::uint32_t received_ = 0;
  // Digest of chunks 0 .. hashed_ - 1: taken as they come, so that a commit need not wait for it.
  Sha256Stream digest_;
  std::uint32_t hashed_ = 0;
};

}  // namespace siftd
