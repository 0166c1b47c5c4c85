// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/weights_staging.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace siftd {
namespace {

// Decode checks the same; a view beyond the buffer must be impossible for any caller.
bool Fits(const ModelBegin& begin) {
  if (begin.chunk_bytes == 0 || begin.total_bytes == 0 ||
      begin.chunks != (begin.total_bytes - 1) / begin.chunk_bytes + 1) {
    return false;
  }
  if (begin.kind == ModelKind::kArtifact) return begin.manifest.empty();
  std::size_t sum = 0;
  for (const TensorSpec& entry : begin.manifest) {
    const auto bytes = CheckedBytes(entry.dtype, entry.shape);
    if (!bytes.ok() || __builtin_add_overflow(sum, *bytes, &sum)) return false;
  }
  return sum == begin.total_bytes;
}

}  // namespace

std::optional<Refusal> WeightsStaging::Refuse(ErrorCode code, std::string text) {
  Discard();
  return Refusal{code, std::move(text)};
}

void WeightsStaging::Discard() {
  begin_.reset();
  bytes_.reset();
  have_.clear();
  received_ = 0;
  digest_ = Sha256Stream();
  hashed_ = 0;
}

std::uint64_t WeightsStaging::ChunkSize(std::uint32_t index) const {
  return std::min<std::uint64_t>(begin_->chunk_bytes,
                                 begin_->total_bytes - std::uint64_t{index} * begin_->chunk_bytes);
}

std::optional<Refusal> WeightsStaging::Begin(const ModelBegin& begin) {
  Discard();
  if (begin.total_bytes > max_bytes_) {
    return Refuse(ErrorCode::kTooLarge, "total_bytes is " + std::to_string(begin.total_bytes) +
                                            "; allowed: at most " + std::to_string(max_bytes_));
  }
  if (!Fits(begin)) {
    return Refuse(ErrorCode::kModelMismatch, "manifest, total_bytes and chunks of version " +
                                                 std::to_string(begin.version) +
                                                 " do not fit together");
  }
  bytes_.reset(new (std::nothrow) std::uint8_t[begin.total_bytes]);
  if (bytes_ == nullptr) {
    return Refuse(ErrorCode::kTooLarge,
                  "no memory for " + std::to_string(begin.total_bytes) + " bytes of weights");
  }
  begin_ = begin;
  have_.assign(begin.chunks, false);
  return std::nullopt;
}

std::optional<Refusal> WeightsStaging::Chunk(const ModelChunk& chunk) {
  if (!begin_ || chunk.run != begin_->run || chunk.version != begin_->version) {
    return Refuse(ErrorCode::kModelCorrupt,
                  "chunk of version " + std::to_string(chunk.version) + " without its ModelBegin");
  }
  if (chunk.index >= begin_->chunks || have_[chunk.index]) {
    return Refuse(ErrorCode::kModelCorrupt, "chunk index is " + std::to_string(chunk.index) +
                                                "; allowed: each of 0 to " +
                                                std::to_string(begin_->chunks - 1) + " once");
  }
  const std::uint64_t at = std::uint64_t{chunk.index} * begin_->chunk_bytes;
  const std::uint64_t size = ChunkSize(chunk.index);
  if (chunk.bytes.size() != size) {
    return Refuse(ErrorCode::kModelCorrupt, "chunk " + std::to_string(chunk.index) + " has " +
                                                std::to_string(chunk.bytes.size()) +
                                                " bytes; allowed: " + std::to_string(size));
  }
  if (Crc32(chunk.bytes.bytes()) != chunk.crc32) {
    return Refuse(ErrorCode::kModelCorrupt,
                  "CRC-32 of chunk " + std::to_string(chunk.index) + " differs");
  }
  std::memcpy(bytes_.get() + at, chunk.bytes.data(), size);
  have_[chunk.index] = true;
  ++received_;
  while (hashed_ < begin_->chunks && have_[hashed_]) {
    digest_.Update(
        {bytes_.get() + std::uint64_t{hashed_} * begin_->chunk_bytes, ChunkSize(hashed_)});
    ++hashed_;
  }
  return std::nullopt;
}

std::optional<Refusal> WeightsStaging::Commit(const ModelCommit& commit, WeightsVersion* out) {
  if (!begin_ || commit.run != begin_->run || commit.version != begin_->version) {
    return Refuse(ErrorCode::kModelCorrupt, "commit of version " + std::to_string(commit.version) +
                                                " without its ModelBegin");
  }
  if (received_ != begin_->chunks) {
    return Refuse(ErrorCode::kModelCorrupt, "commit after " + std::to_string(received_) + " of " +
                                                std::to_string(begin_->chunks) + " chunks");
  }
  if (digest_.Final() != begin_->sha256) {
    return Refuse(ErrorCode::kModelCorrupt,
                  "SHA-256 of version " + std::to_string(commit.version) + " differs");
  }
  *out = {begin_->run, begin_->version,           begin_->step, begin_->kind, {},
          {},          std::move(begin_->history)};
  if (begin_->kind == ModelKind::kArtifact) {
    out->archive = Frame(bytes_, bytes_.get(), begin_->total_bytes);
  }
  std::size_t at = 0;
  for (TensorSpec& entry : begin_->manifest) {
    const std::size_t size = CheckedBytes(entry.dtype, entry.shape).value();  // Fits
    out->tensors.push_back({std::move(entry.name), entry.dtype, std::move(entry.shape),
                            Frame(bytes_, bytes_.get() + at, size)});
    at += size;
  }
  Discard();
  return std::nullopt;
}

}  // namespace siftd
