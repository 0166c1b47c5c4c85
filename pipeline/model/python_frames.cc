// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/python_frames.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>
#include <unordered_map>

namespace siftd::python_frames {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[4] = {'S', 'F', 'P', 'C'};

template <typename T>
void Append(const T& part, std::string* head) {
  head->append(reinterpret_cast<const char*>(&part), sizeof(part));
}

// The header's place is kept free until the size is known.
void Begin(Request* request) { request->head.resize(sizeof(Header)); }

void End(Type type, Request* request) {
  Header header{{}, static_cast<std::uint32_t>(type), request->head.size() - sizeof(Header)};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  for (const auto& part : request->payload) header.body_bytes += part.size();
  std::memcpy(request->head.data(), &header, sizeof(header));
}

const Tensor* Find(const ScoredBatch& batch, const std::string& name) {
  for (const Tensor& tensor : batch.candidates.tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

}  // namespace

Request UpdateRequest(const ArtifactManifest& manifest, const WeightsVersion& weights) {
  std::unordered_map<std::string_view, std::uint64_t> index;
  for (std::size_t i = 0; i < manifest.state.size(); ++i) index.emplace(manifest.state[i].name, i);
  Request request;
  Begin(&request);
  Append(UpdateHead{weights.run, weights.version, weights.step, weights.tensors.size()},
         &request.head);
  for (const Tensor& tensor : weights.tensors) {
    Append(UpdateEntry{index.at(tensor.name), tensor.bytes.size()}, &request.head);
    request.payload.push_back(tensor.bytes.bytes());
  }
  End(Type::kUpdate, &request);
  return request;
}

Result<Request> ScoreRequest(const ArtifactManifest& manifest,
                             const std::vector<ScoredBatchPtr>& batches) {
  std::int64_t rows = 0;
  for (const ScoredBatchPtr& batch : batches)
    rows += static_cast<std::int64_t>(batch->candidates.sample_id.size());
  Request request;
  Begin(&request);
  Append(ScoreHead{static_cast<std::uint64_t>(rows), manifest.inputs.size()}, &request.head);
  for (const TensorSpec& spec : manifest.inputs) {
    InputEntry entry{};
    std::vector<std::int64_t> shape;
    for (const ScoredBatchPtr& batch : batches) {
      const Tensor* tensor = Find(*batch, spec.name);
      if (tensor == nullptr) return Internal("a batch lacks the input '" + spec.name + "'");
      if (shape.empty()) shape = tensor->shape;
      if (tensor->shape.empty() || tensor->shape.size() > kMaxRank ||
          !std::equal(shape.begin() + 1, shape.end(), tensor->shape.begin() + 1,
                      tensor->shape.end())) {
        return Internal("input '" + spec.name + "' differs from batch to batch, or has more than " +
                        std::to_string(kMaxRank) + " dimensions");
      }
      entry.bytes += tensor->bytes.size();
      if (!tensor->bytes.empty()) request.payload.push_back(tensor->bytes.bytes());
    }
    shape[0] = rows;
    const auto bytes = CheckedBytes(spec.dtype, shape);
    if (!bytes.ok() || *bytes != entry.bytes) {
      return Internal("input '" + spec.name + "' has " + std::to_string(entry.bytes) +
                      " bytes, which do not make " +
                      ToString(TensorSpec{spec.name, spec.dtype, shape}));
    }
    entry.dtype = static_cast<std::uint32_t>(spec.dtype);
    entry.rank = static_cast<std::uint32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), entry.shape);
    Append(entry, &request.head);
  }
  End(Type::kScore, &request);
  return request;
}

Result<Type> CheckReply(const Header& header, std::size_t scores_bytes) {
  const Type type{header.type};
  const std::uint64_t bytes = header.body_bytes;
  bool fits = std::memcmp(header.magic, kMagic, sizeof(kMagic)) == 0;
  switch (type) {
    case Type::kReady:
      fits = fits && bytes >= kDigestBytes && bytes <= kDigestBytes + kMaxManifestBytes;
      break;
    case Type::kOk:
      fits = fits && bytes == 0;
      break;
    case Type::kScores:
      fits = fits && scores_bytes > 0 && bytes == scores_bytes;
      break;
    case Type::kError:
      fits = fits && bytes <= kMaxErrorBytes;
      break;
    default:
      fits = false;
  }
  if (fits) return type;
  return DataLoss("a message of type " + std::to_string(header.type) + " and " +
                  std::to_string(bytes) + " bytes, which the worker did not ask for");
}

}  // namespace siftd::python_frames
