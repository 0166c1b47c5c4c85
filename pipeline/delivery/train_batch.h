// SPDX-License-Identifier: Apache-2.0
// TrainBatch: rows as a trainer takes them, with what was decided about each. Rows of one key can
// be cut out of it again, for a state. Values; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pipeline/data/messages.h"

namespace siftd {

// Rows of one key in a batch, in order.
struct RowSpan {
  BatchKey key;
  std::uint32_t epoch = 0;
  std::uint32_t begin = 0;  // first row in the batch
  std::uint32_t rows = 0;
  bool last = false;  // no row of the key comes after these
  Outcome outcome = Outcome::kDecided;
  std::uint64_t model_version = 0;
  std::uint64_t model_step = 0;
};

// The memory is the batch's own; its tensors share it.
struct TrainBatch {
  std::vector<Tensor> tensors;           // each [n, ...]
  std::vector<std::uint64_t> sample_id;  // [n]
  std::vector<float> score;              // [n]; NaN: was not scored
  std::vector<float> keep_probability;   // [n]; 1: was not sifted
  std::vector<float> weight;             // [n]; 1 where the policy gives none
  std::vector<float> percentile;         // [n]; NaN: unknown
  std::vector<RowSpan> spans;            // cover the rows in order
  std::string score_column;              // of the first scored rows
  std::size_t rows() const { return sample_id.size(); }
};

// The rows of `key` in `batch`, as a Selected that an Assembler takes. They share the batch's
// memory. Without rows when the batch has none of the key.
Selected ExtractRows(const TrainBatch& batch, const BatchKey& key);

// Pieces of one key, in order, as one. REQUIRES: at least one piece, equal layouts.
Selected JoinRows(std::vector<Selected> pieces);

// Rows [begin, begin + rows) of `tensor`, sharing its memory.
Tensor SliceRows(const Tensor& tensor, std::size_t begin, std::size_t rows);

}  // namespace siftd
