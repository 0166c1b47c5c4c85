// SPDX-License-Identifier: Apache-2.0
// Assembler: kept rows, first in first out, into batches of exactly batch_size rows. Each row is
// copied once, on arrival where the batch being built has room, straight into that batch's own
// memory, which is used again once nobody holds the batch. One thread only. Pure.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "pipeline/base/buffer_pool.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "pipeline/delivery/train_batch.h"

namespace siftd {

struct AssemblerOptions {
  std::uint32_t batch_size = 1;
  bool drop_last =
      false;  // an epoch's remainder is carried over, and dropped at the end of the run
};

class Assembler {
 public:
  explicit Assembler(AssemblerOptions options);
  ~Assembler();
  Assembler(const Assembler&) = delete;
  Assembler& operator=(const Assembler&) = delete;

  // Takes the kept rows of one key. Error: they cannot stand in one batch with the rows before
  // them, or their arrays do not fit together; the rows are not taken.
  Status Add(Selected rows);
  // The same of a candidate batch whose tensors have all their rows, [decision.rows, ...]: the kept
  // ones are picked as they are copied.
  Status AddKeptOf(Selected candidate);
  // All rows of the epoch were added: its remainder becomes a short batch, unless drop_last and not
  // `flush`.
  void EndEpoch(std::uint32_t epoch, bool flush = false);
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

  // Rows of `key` that were added and not taken; without rows when there are none.
  Selected RowsOf(const BatchKey& key) const;
  // All rows that were added and not taken, oldest first; they share memory with the batch being
  // built.
  std::vector<TrainBatch> Untaken() const;
  // Their number.
  std::size_t buffered_rows() const { return buffered_rows_; }
  std::uint64_t dropped_rows() const { return dropped_rows_; }
  const AssemblerOptions& options() const { return options_; }

 private:
  struct Source;  // a key's rows, some of them copied already; or a mark: an epoch, the run is over
  struct Building;  // a batch's memory, some of it filled

  Status Check(const Selected& rows, std::size_t tensor_rows) const;
  Status CheckRoom(const std::vector<Tensor>& tensors, const std::string& of) const;
  void Push(Source source);
  TrainBatch Alone(const Source& source) const;
  void Fill();
  void CopyRows(Source& source, std::uint32_t rows);
  TrainBatch Close();
  void DropBuilding();

  const AssemblerOptions options_;
  BufferPool memory_;  // of batches
  std::deque<Source> sources_;
  std::unique_ptr<Building> building_;
  std::vector<Tensor> layout_;  // names, dtypes and trailing shapes of all rows so far
  std::vector<BatchKey> emptied_;
  std::size_t buffered_rows_ = 0;
  std::uint64_t dropped_rows_ = 0;
};

}  // namespace siftd
