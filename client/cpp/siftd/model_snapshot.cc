// SPDX-License-Identifier: Apache-2.0
#include "siftd/model_snapshot.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "pipeline/wire/digest.h"

namespace siftd {

Result<ModelSnapshot> CopyWeights(const std::vector<Tensor>& weights) {
  std::size_t total = 0;
  ModelSnapshot snapshot;
  for (const Tensor& tensor : weights) {
    if (tensor.name.empty()) return InvalidArgument("weights hold a tensor without a name");
    SIFTD_RETURN_IF_ERROR(Validate(tensor));
    total += tensor.bytes.size();
    snapshot.begin.manifest.push_back({tensor.name, tensor.dtype, tensor.shape});
  }
  std::shared_ptr<std::uint8_t[]> bytes(new std::uint8_t[std::max<std::size_t>(1, total)]);
  std::size_t at = 0;
  for (const Tensor& tensor : weights) {
    if (!tensor.bytes.empty())
      std::memcpy(bytes.get() + at, tensor.bytes.data(), tensor.bytes.size());
    at += tensor.bytes.size();
  }
  const std::uint8_t* data = bytes.get();
  snapshot.bytes = Frame(std::move(bytes), data, total);
  snapshot.begin.kind = ModelKind::kFull;
  return snapshot;
}

ModelSnapshot ArtifactSnapshot(Frame archive) {
  ModelSnapshot snapshot;
  snapshot.begin.kind = ModelKind::kArtifact;
  snapshot.bytes = std::move(archive);
  return snapshot;
}

void Seal(std::uint32_t chunk_bytes, ModelSnapshot* snapshot) {
  const std::span<const std::uint8_t> bytes = snapshot->bytes.bytes();
  ModelBegin& begin = snapshot->begin;
  begin.total_bytes = bytes.size();
  begin.chunk_bytes = chunk_bytes;
  begin.chunks = static_cast<std::uint32_t>((bytes.size() + chunk_bytes - 1) / chunk_bytes);
  begin.sha256 = Sha256(bytes);
  for (std::size_t at = 0; at < bytes.size(); at += chunk_bytes)
    snapshot->crc32.push_back(
        Crc32(bytes.subspan(at, std::min<std::size_t>(chunk_bytes, bytes.size() - at))));
}

}  // namespace siftd
