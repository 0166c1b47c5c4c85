// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <utility>

#include "pipeline/wire/artifact_codec.h"
#include "pipeline/wire/digest.h"
#include "pipeline/wire/weights_staging.h"
#include "tests/fuzz/targets.h"

namespace siftd::fuzz {
namespace {

constexpr std::uint64_t kMostBytes = 1 << 16;

// Sound or not, as the bytes say; the sizes are mostly small, so that transfers come to an end.
ModelBegin Begin(Bytes& bytes, std::string* content) {
  const std::uint8_t how = bytes.Byte();
  ModelBegin begin;
  begin.run = how & 1;
  begin.version = bytes.Byte();
  begin.kind = static_cast<ModelKind>(1 + bytes.Byte() % 3);
  begin.chunk_bytes = how & 2 ? bytes.Number<std::uint32_t>() : 1 + bytes.Byte() % 16;
  std::uint64_t sum = 0;
  for (std::size_t n = bytes.Byte() % 4; n > 0; --n) {
    TensorSpec spec{"w" + std::to_string(n), static_cast<DType>(bytes.Byte() % 12), {}};
    for (std::size_t d = bytes.Byte() % 4; d > 0; --d)
      spec.shape.push_back(how & 4 ? bytes.Number<std::int64_t>() : bytes.Byte() % 8);
    const auto size = CheckedBytes(spec.dtype, spec.shape);
    sum += size.ok() ? *size : 0;
    begin.manifest.push_back(std::move(spec));
  }
  if (begin.kind == ModelKind::kArtifact && !(how & 8)) {
    begin.manifest.clear();
    sum = bytes.Byte();
  }
  begin.total_bytes = how & 16 ? bytes.Number<std::uint64_t>() : sum;
  begin.chunks = bytes.Number<std::uint32_t>();
  if (!(how & 32) && begin.chunk_bytes > 0 && begin.total_bytes > 0)
    begin.chunks = static_cast<std::uint32_t>((begin.total_bytes - 1) / begin.chunk_bytes + 1);
  content->assign(bytes.Text(std::min(begin.total_bytes, kMostBytes)));
  content->resize(std::min(begin.total_bytes, kMostBytes));
  begin.sha256 = Sha256({reinterpret_cast<const std::uint8_t*>(content->data()), content->size()});
  if (how & 64) begin.sha256[0] = static_cast<char>(~begin.sha256[0]);
  return begin;
}

ModelChunk Chunk(Bytes& bytes, const ModelBegin& begin, const std::string& content) {
  const std::uint8_t how = bytes.Byte();
  ModelChunk chunk;
  chunk.run = begin.run ^ (how & 1);
  chunk.version = how & 2 ? bytes.Byte() : begin.version;
  chunk.index = how & 4 ? bytes.Number<std::uint32_t>() : bytes.Byte();
  const std::uint64_t at = std::uint64_t{chunk.index} * begin.chunk_bytes;
  if (how & 8) {
    chunk.bytes = bytes.OneFrame(bytes.Number<std::uint16_t>());
  } else if (at < content.size()) {
    chunk.bytes = Frame::Adopt(content.substr(at, begin.chunk_bytes));
  }
  chunk.crc32 = how & 16 ? bytes.Number<std::uint32_t>() : Crc32(chunk.bytes.bytes());
  return chunk;
}

}  // namespace

void FuzzManifest(Input input) {
  const std::string text(reinterpret_cast<const char*>(input.data()), input.size());
  const auto manifest = ParseManifest(text);
  if (!manifest.ok()) {
    Demand(!manifest.status().message().empty(), "an error says something");
    return;
  }
  const std::string written = SerializeManifest(*manifest);
  const auto again = ParseManifest(written);
  Demand(again.ok(), "what was read can be written");
  Demand(SerializeManifest(*again) == written, "and says the same");
}

void FuzzStaging(Input input) {
  Bytes bytes(input);
  WeightsStaging staging(kMostBytes);
  ModelBegin begin;
  std::string content;
  while (!bytes.empty()) {
    switch (bytes.Byte() % 8) {
      case 0: {
        begin = Begin(bytes, &content);
        staging.Begin(begin);
        break;
      }
      case 1: {
        WeightsVersion version;
        const ModelCommit commit{{}, begin.run, begin.version + bytes.Byte() % 2};
        if (staging.Commit(commit, &version)) break;
        std::string taken(version.archive.view());
        for (const Tensor& tensor : version.tensors) {
          Demand(Validate(tensor).ok(), "a version's tensors are valid");
          taken += tensor.bytes.view();
        }
        Demand(taken == content, "a version is what its digest says");
        break;
      }
      case 2:
        staging.Discard();
        break;
      default:
        staging.Chunk(Chunk(bytes, begin, content));
    }
    Demand(staging.chunks_received() <= begin.chunks, "no more chunks than there are");
  }
}

}  // namespace siftd::fuzz
