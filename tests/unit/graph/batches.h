// SPDX-License-Identifier: Apache-2.0
// Candidate batches for the graph's tests.
#pragma once

#include <memory>
#include <vector>

#include "pipeline/data/scored_batch.h"

namespace siftd {

inline ScoredBatchPtr MakeBatch(std::uint64_t seq, std::uint32_t rows = 4, std::int64_t width = 2) {
  auto batch = std::make_shared<ScoredBatch>();
  batch->candidates.run = 1;
  batch->candidates.key = {0, 0, seq};
  for (std::uint32_t i = 0; i < rows; ++i) batch->candidates.sample_id.push_back(seq * 1000 + i);
  std::vector<std::uint8_t> bytes(rows * static_cast<std::size_t>(width));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(seq + i);
  batch->candidates.tensors.push_back(
      {"x", DType::kUInt8, {rows, width}, Frame::Adopt(std::move(bytes))});
  JobSpec job;
  job.mode = Mode::kSamples;
  batch->job = std::make_shared<const JobSpec>(job);
  batch->admitted = Now();
  return batch;
}

}  // namespace siftd
