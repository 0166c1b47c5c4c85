// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/limits.h"
#include "pipeline/wire/message_codec.h"

namespace siftd::wire {
namespace {

// Its entries lie back to back and fill total_bytes exactly; an artifact has none.
Result<std::vector<TensorSpec>> FromManifest(const v1::ModelBegin& from) {
  const auto n = static_cast<std::size_t>(from.manifest_size());
  const bool artifact = from.kind() == v1::MODEL_KIND_ARTIFACT;
  if (artifact && n != 0)
    return Refuse("manifest's length", std::to_string(n), "0 for an artifact");
  SIFTD_RETURN_IF_ERROR(CheckAtMost("manifest's length", n, limits::kMaxStateEntries));
  std::vector<TensorSpec> manifest(n);
  std::vector<std::string_view> names(n);
  std::size_t sum = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const Field field("manifest", static_cast<int>(i));
    SIFTD_ASSIGN_OR_RETURN(manifest[i], From(field, from.manifest(static_cast<int>(i))));
    SIFTD_ASSIGN_OR_RETURN(const std::size_t bytes, SpecBytes(field, manifest[i]));
    if (__builtin_add_overflow(sum, bytes, &sum)) {
      return Refuse("total_bytes", std::to_string(from.total_bytes()),
                    "the manifest's sum, which overflows");
    }
    names[i] = manifest[i].name;
  }
  SIFTD_RETURN_IF_ERROR(CheckUnique("manifest", names));
  if (!artifact && sum != from.total_bytes()) {
    return Refuse("total_bytes", std::to_string(from.total_bytes()),
                  "the manifest's sum, " + std::to_string(sum));
  }
  return manifest;
}

}  // namespace

Result<ModelBegin> From(const v1::ModelBegin& from, const Frames& /*frames*/) {
  ModelBegin m;
  if (from.kind() < v1::MODEL_KIND_FULL || from.kind() > v1::MODEL_KIND_ARTIFACT) {
    return Refuse("kind", std::to_string(from.kind()), "1 to 3 (enum ModelKind)");
  }
  if (from.chunk_bytes() < limits::kMinChunkBytes || from.chunk_bytes() > limits::kMaxChunkBytes) {
    return Refuse(
        "chunk_bytes", std::to_string(from.chunk_bytes()),
        std::to_string(limits::kMinChunkBytes) + " to " + std::to_string(limits::kMaxChunkBytes));
  }
  if (from.total_bytes() == 0) return Refuse("total_bytes", "0", "1 or more");
  const std::uint64_t chunks = (from.total_bytes() - 1) / from.chunk_bytes() + 1;
  if (from.chunks() != chunks) {
    return Refuse("chunks", std::to_string(from.chunks()),
                  "total_bytes / chunk_bytes rounded up, " + std::to_string(chunks));
  }
  if (from.sha256().size() != 32) {
    return Refuse("sha256's length", std::to_string(from.sha256().size()), "32");
  }
  if ((from.kind() == v1::MODEL_KIND_ARTIFACT) != (from.version() == 0)) {
    return Refuse("version", std::to_string(from.version()), "0 for an artifact, else 1 or more");
  }
  SIFTD_RETURN_IF_ERROR(CheckAtMost(
      "history's length", static_cast<std::size_t>(from.history_size()), limits::kMaxHistory));
  m.session = From(from.session());
  m.run = from.run();
  m.version = from.version();
  m.step = from.step();
  m.kind = static_cast<ModelKind>(from.kind());
  SIFTD_ASSIGN_OR_RETURN(m.manifest, FromManifest(from));
  m.total_bytes = from.total_bytes();
  m.chunk_bytes = from.chunk_bytes();
  m.chunks = from.chunks();
  m.sha256 = from.sha256();
  m.history = ToVector<float>(from.history());
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
  if (frames[2].empty() || frames[2].size() > limits::kMaxChunkBytes) {
    return Refuse("chunk's bytes", std::to_string(frames[2].size()),
                  "1 to " + std::to_string(limits::kMaxChunkBytes));
  }
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
  if (!v1::ErrorCode_IsValid(from.code()))
    return Refuse("code", std::to_string(from.code()), "0 to 22 (enum ErrorCode)");
  SIFTD_RETURN_IF_ERROR(CheckText("text", from.text(), limits::kMaxTextBytes));
  return ModelAck{From(from.session()), from.run(),
                  from.version(),       static_cast<ModelState>(from.state()),
                  from.chunks(),        static_cast<ErrorCode>(from.code()),
                  from.text()};
}

void To(const ModelAck& from, v1::ModelAck* to, Frames* /*frames*/) {
  To(from.session, to->mutable_session());
  to->set_run(from.run);
  to->set_version(from.version);
  to->set_state(static_cast<v1::ModelState>(from.state));
  to->set_chunks(from.chunks);
  to->set_code(static_cast<v1::ErrorCode>(from.code));
  to->set_text(ClipText(from.text));
}

}  // namespace siftd::wire
