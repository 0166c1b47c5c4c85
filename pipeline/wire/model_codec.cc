// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/limits.h"
#include "pipeline/wire/message_codec.h"

namespace siftd::wire {
namespace {

// The manifest's entries lie back to back and fill total_bytes exactly.
Status CheckManifest(const ModelBegin& m) {
  std::size_t sum = 0;
  for (const TensorSpec& entry : m.manifest) {
    SIFTD_ASSIGN_OR_RETURN(const std::size_t bytes, CheckedBytes(entry.dtype, entry.shape));
    if (__builtin_add_overflow(sum, bytes, &sum)) return InvalidArgument("manifest overflows 64 bits of bytes");
  }
  if (m.kind == ModelKind::kArtifact) return OkStatus();
  if (sum == m.total_bytes) return OkStatus();
  return Refuse("total_bytes", std::to_string(m.total_bytes), "the manifest's sum, " + std::to_string(sum));
}

}  // namespace

Result<ModelBegin> From(const v1::ModelBegin& from, const Frames& /*frames*/) {
  ModelBegin m;
  if (from.kind() < v1::MODEL_KIND_FULL || from.kind() > v1::MODEL_KIND_ARTIFACT) {
    return Refuse("kind", std::to_string(from.kind()), "1 to 3 (enum ModelKind)");
  }
  if (from.chunk_bytes() < limits::kMinChunkBytes || from.chunk_bytes() > limits::kMaxChunkBytes) {
    return Refuse("chunk_bytes", std::to_string(from.chunk_bytes()),
                  std::to_string(limits::kMinChunkBytes) + " to " + std::to_string(limits::kMaxChunkBytes));
  }
  const std::uint64_t chunks = (from.total_bytes() + from.chunk_bytes() - 1) / from.chunk_bytes();
  if (from.chunks() != chunks || from.total_bytes() == 0) {
    return Refuse("chunks", std::to_string(from.chunks()),
                  "total_bytes / chunk_bytes rounded up, " + std::to_string(chunks) + ", at least 1");
  }
  if (from.sha256().size() != 32) {
    return Refuse("sha256's length", std::to_string(from.sha256().size()), "32");
  }
  SIFTD_RETURN_IF_ERROR(CheckAtMost("manifest's length", static_cast<std::size_t>(from.manifest_size()),
                                    limits::kMaxStateEntries));
  SIFTD_RETURN_IF_ERROR(
      CheckAtMost("history's length", static_cast<std::size_t>(from.history_size()), limits::kMaxHistory));
  m.session = From(from.session());
  m.run = from.run();
  m.version = from.version();
  m.step = from.step();
  m.kind = static_cast<ModelKind>(from.kind());
  m.manifest.reserve(static_cast<std::size_t>(from.manifest_size()));
  for (int i = 0; i < from.manifest_size(); ++i) {
    const v1::TensorDesc& desc = from.manifest(i);
    const std::string field = "manifest[" + std::to_string(i) + "]";
    TensorSpec entry;
    SIFTD_RETURN_IF_ERROR(CheckText(field + ".name", desc.name(), limits::kMaxNameBytes));
    SIFTD_RETURN_IF_ERROR(
        CheckAtMost(field + ".shape's length", static_cast<std::size_t>(desc.shape_size()), limits::kMaxRank));
    SIFTD_ASSIGN_OR_RETURN(entry.dtype, FromDType(field + ".dtype", desc.dtype()));
    entry.name = desc.name();
    entry.shape = ToVector<std::int64_t>(desc.shape());
    m.manifest.push_back(std::move(entry));
  }
  m.total_bytes = from.total_bytes();
  m.chunk_bytes = from.chunk_bytes();
  m.chunks = from.chunks();
  m.sha256 = from.sha256();
  m.history = ToVector<float>(from.history());
  SIFTD_RETURN_IF_ERROR(CheckManifest(m));
  return m;
}

void To(const ModelBegin& from, v1::ModelBegin* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  to->set_version(from.version);
  to->set_step(from.step);
  to->set_kind(static_cast<v1::ModelKind>(from.kind));
  for (const TensorSpec& entry : from.manifest) {
    v1::TensorDesc* desc = to->add_manifest();
    desc->set_name(entry.name);
    desc->set_dtype(static_cast<v1::DType>(entry.dtype));
    FromVector(entry.shape, desc->mutable_shape());
  }
  to->set_total_bytes(from.total_bytes);
  to->set_chunk_bytes(from.chunk_bytes);
  to->set_chunks(from.chunks);
  to->set_sha256(from.sha256);
  FromVector(from.history, to->mutable_history());
}

Result<ModelChunk> From(const v1::ModelChunk& from, const Frames& frames) {
  if (frames.size() != 3) {
    return Refuse("payload frames", std::to_string(frames.size() - 2), "exactly 1");
  }
  SIFTD_RETURN_IF_ERROR(CheckAtMost("chunk's bytes", frames[2].size(), limits::kMaxChunkBytes));
  return ModelChunk{From(from.session()), from.run(),   from.version(),
                    from.index(),         from.crc32(), frames[2]};
}

void To(const ModelChunk& from, v1::ModelChunk* to, Frames* frames) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  to->set_version(from.version);
  to->set_index(from.index);
  to->set_crc32(from.crc32);
  frames->push_back(from.bytes);
}

Result<ModelCommit> From(const v1::ModelCommit& from, const Frames& /*frames*/) {
  return ModelCommit{From(from.session()), from.run(), from.version()};
}

void To(const ModelCommit& from, v1::ModelCommit* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  to->set_version(from.version);
}

Result<ModelAck> From(const v1::ModelAck& from, const Frames& /*frames*/) {
  if (from.state() < v1::MODEL_STATE_RECEIVING || from.state() > v1::MODEL_STATE_REFUSED) {
    return Refuse("state", std::to_string(from.state()), "1 to 3 (enum ModelState)");
  }
  if (!v1::ErrorCode_IsValid(from.code())) return Refuse("code", std::to_string(from.code()), "enum ErrorCode");
  SIFTD_RETURN_IF_ERROR(CheckText("text", from.text(), limits::kMaxTextBytes));
  return ModelAck{From(from.session()),
                  from.run(),
                  from.version(),
                  static_cast<ModelState>(from.state()),
                  from.chunks(),
                  static_cast<ErrorCode>(from.code()),
                  from.text()};
}

void To(const ModelAck& from, v1::ModelAck* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  to->set_version(from.version);
  to->set_state(static_cast<v1::ModelState>(from.state));
  to->set_chunks(from.chunks);
  to->set_code(static_cast<v1::ErrorCode>(from.code));
  to->set_text(from.text);
}

}  // namespace siftd::wire
