// SPDX-License-Identifier: Apache-2.0
// Assembler: kept rows, first in first out, into batches of exactly batch_size rows. Each row is copied once, on arrival
// where the batch being built has room, straight into that batch's own memory. One thread only. Pure.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/base/status.h"
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
  std::vector<Tensor> tensors;  // each [n, ...]
  std::vector<std::uint64_t> sample_id;  // [n]
  std::vector<float> score;              // [n]; NaN: was not scored
  std::vector<float> keep_probability;   // [n]; 1: was not sifted
  std::vector<float> weight;             // [n]; 1 where the policy gives none
  std::vector<float> percentile;         // [n]; NaN: unknown
  std::vector<RowSpan> spans;            // cover the rows in order
  std::string score_column;              // of the first scored rows
  std::size_t rows() const { return sample_id.size(); }
};

struct AssemblerOptions {
  std::uint32_t batch_size = 1;
  bool drop_last = false;  // an epoch's remainder is carried over, and dropped at the end of the run
};

class Assembler {
 public:
  explicit Assembler(AssemblerOptions options);
  ~Assembler();
  Assembler(const Assembler&) = delete;
  Assembler& operator=(const Assembler&) = delete;

  // Takes the kept rows of one key. Error: they cannot stand in one batch with the rows before them, or their arrays do
  // not fit together; the rows are not taken.
  Status Add(Selected rows);
  // All rows of the epoch were added: its remainder becomes a short batch, unless drop_last.
  void EndEpoch(std::uint32_t epoch);
  // The run is over: likewise; with drop_last the remainder is dropped and counted.
  void Finish();

  // The next batch or, between batches, the epoch that is over.
  struct Item {
    std::optional<TrainBatch> batch;
    std::uint32_t epoch = 0;  // without a batch
  };
  std::optional<Item> Take();
  // Keys all of whose rows were taken (or dropped) since the last call.
  std::vector<BatchKey> TakeEmptied();

  // Rows added and not taken.
  std::size_t buffered_rows() const { return buffered_rows_; }
  std::uint64_t dropped_rows() const { return dropped_rows_; }
  const AssemblerOptions& options() const { return options_; }

 private:
  struct Source;   // a key's rows, some of them copied already
  struct Building; // a batch's memory, some of it filled

  std::uint32_t RoomInBuilding() const;
  void Fill();
  void CopyRows(Source& source, std::uint32_t rows);
  void Start(const Source& first);
  TrainBatch Close();
  bool HasMark() const;

  const AssemblerOptions options_;
  std::deque<std::unique_ptr<Source>> sources_;  // rows, and marks of epochs that are over
  std::unique_ptr<Building> building_;
  std::vector<Tensor> layout_;  // names, dtypes and trailing shapes of all rows so far
  std::vector<BatchKey> emptied_;
  std::size_t buffered_rows_ = 0;
  std::uint64_t dropped_rows_ = 0;
};

// The rows [begin, rows of the span's key ...) of `batch` that belong to `key`, as a Selected that Add takes again.
Selected ExtractRows(const TrainBatch& batch, const BatchKey& key);

}  // namespace siftd
