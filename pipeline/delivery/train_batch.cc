// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/train_batch.h"

#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

namespace siftd {
namespace {

template <typename T>
void Append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

template <typename T>
std::vector<T> Slice(const std::vector<T>& from, std::size_t begin, std::size_t n) {
  const auto first = from.begin() + static_cast<std::ptrdiff_t>(begin);
  return {first, first + static_cast<std::ptrdiff_t>(n)};
}

Tensor Concat(const Tensor& a, const Tensor& b) {
  const std::size_t size = a.bytes.size() + b.bytes.size();
  std::shared_ptr<std::uint8_t[]> bytes(new std::uint8_t[size]);
  if (!a.bytes.empty()) std::memcpy(bytes.get(), a.bytes.data(), a.bytes.size());
  if (!b.bytes.empty()) std::memcpy(bytes.get() + a.bytes.size(), b.bytes.data(), b.bytes.size());
  Tensor out{a.name, a.dtype, a.shape, {}};
  out.shape[0] += b.shape[0];
  const std::uint8_t* data = bytes.get();
  out.bytes = Frame(std::move(bytes), data, size);
  return out;
}

}  // namespace

Tensor SliceRows(const Tensor& tensor, std::size_t begin, std::size_t rows) {
  Tensor out{tensor.name, tensor.dtype, tensor.shape, {}};
  out.shape[0] = static_cast<std::int64_t>(rows);
  const std::size_t row = tensor.row_bytes();
  out.bytes = Frame(tensor.bytes.owner(), tensor.bytes.data() + begin * row, rows * row);
  return out;
}

Selected ExtractRows(const TrainBatch& batch, const BatchKey& key) {
  Selected out;
  out.key = key;
  for (const RowSpan& span : batch.spans) {
    if (span.key != key || span.rows == 0) continue;
    out.epoch = span.epoch;
    Decision& d = out.decision;
    d.outcome = span.outcome;
    d.rows = span.rows;
    d.kept.resize(span.rows);
    std::iota(d.kept.begin(), d.kept.end(), 0u);
    d.score = Slice(batch.score, span.begin, span.rows);
    d.keep_probability = Slice(batch.keep_probability, span.begin, span.rows);
    d.weight = Slice(batch.weight, span.begin, span.rows);
    d.percentile = Slice(batch.percentile, span.begin, span.rows);
    d.column = batch.score_column;
    d.model_version = span.model_version;
    d.model_step = span.model_step;
    out.sample_id = Slice(batch.sample_id, span.begin, span.rows);
    for (const Tensor& t : batch.tensors)
      out.tensors.push_back(SliceRows(t, span.begin, span.rows));
    return out;  // a key's rows are consecutive
  }
  return out;
}

Selected JoinRows(std::vector<Selected> pieces) {
  Selected out = std::move(pieces.front());
  for (std::size_t i = 1; i < pieces.size(); ++i) {
    const Selected& next = pieces[i];
    Append(out.sample_id, next.sample_id);
    Append(out.decision.score, next.decision.score);
    Append(out.decision.keep_probability, next.decision.keep_probability);
    Append(out.decision.weight, next.decision.weight);
    Append(out.decision.percentile, next.decision.percentile);
    for (std::size_t t = 0; t < out.tensors.size(); ++t)
      out.tensors[t] = Concat(out.tensors[t], next.tensors[t]);
  }
  out.decision.rows = static_cast<std::uint32_t>(out.sample_id.size());
  out.decision.kept.resize(out.decision.rows);
  std::iota(out.decision.kept.begin(), out.decision.kept.end(), 0u);
  return out;
}

}  // namespace siftd
