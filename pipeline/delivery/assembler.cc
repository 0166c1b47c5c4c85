// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/assembler.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <utility>

namespace siftd {
namespace {

constexpr std::uint64_t kMostBatchBytes = std::uint64_t{64} << 30;

std::string RowText(const Tensor& t) {
  std::string text = "'" + t.name + "' " + std::string(DTypeName(t.dtype)) + " [n";
  for (std::size_t i = 1; i < t.shape.size(); ++i) text += ", " + std::to_string(t.shape[i]);
  return text + "]";
}

bool SameRows(const Tensor& a, const Tensor& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape.size() == b.shape.size() &&
         std::equal(a.shape.begin() + 1, a.shape.end(), b.shape.begin() + 1);
}

// Rows `picked` of `from`, each `row` bytes, back to back to `to`; neighbours at once.
void CopyPicked(std::uint8_t* to, const std::uint8_t* from, std::size_t row,
                std::span<const std::uint32_t> picked) {
  for (std::size_t i = 0; i < picked.size();) {
    std::size_t run = 1;
    while (i + run < picked.size() && picked[i + run] == picked[i] + run) ++run;
    std::memcpy(to + i * row, from + picked[i] * row, run * row);
    i += run;
  }
}

}  // namespace

struct Assembler::Source {
  enum class Kind { kRows, kEpoch, kRun };
  Kind kind = Kind::kRows;
  std::uint32_t epoch = 0;
  bool flush = false;
  bool pick = false;  // the tensors have all rows of the candidate batch
  Selected rows;
  std::uint32_t next = 0;  // rows before it are copied

  std::uint32_t left() const { return static_cast<std::uint32_t>(rows.sample_id.size()) - next; }
};

struct Assembler::Building {
  std::uint32_t capacity = 0;                         // rows
  std::vector<std::shared_ptr<std::uint8_t>> memory;  // by tensor
  std::vector<Tensor> layout;
  TrainBatch batch;  // but for its tensors

  std::uint32_t rows() const { return static_cast<std::uint32_t>(batch.rows()); }
  std::vector<Tensor> Tensors() const {
    std::vector<Tensor> tensors = layout;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      tensors[i].shape[0] = rows();
      tensors[i].bytes = Frame(memory[i], memory[i].get(), tensors[i].row_bytes() * rows());
    }
    return tensors;
  }
};

Assembler::Assembler(AssemblerOptions options) : options_(options) {}
Assembler::~Assembler() = default;

Status Assembler::Check(const Selected& rows, std::size_t tensor_rows) const {
  const Decision& d = rows.decision;
  const std::size_t kept = d.kept.size();
  const std::string of = " of batch " + ToString(rows.key);
  if (rows.sample_id.size() != kept)
    return InvalidArgument("sample_id's length differs from the kept rows" + of);
  const auto fits = [](std::size_t n, std::size_t all) { return n == 0 || n == all; };
  if (!fits(d.score.size(), d.rows) || !fits(d.keep_probability.size(), d.rows) ||
      !fits(d.percentile.size(), d.rows) || !fits(d.weight.size(), kept)) {
    return InvalidArgument("scores and rows do not fit together" + of);
  }
  if (std::any_of(d.kept.begin(), d.kept.end(), [&](std::uint32_t r) { return r >= d.rows; })) {
    return InvalidArgument("a kept row's index is not below " + std::to_string(d.rows) + of);
  }
  for (const Tensor& t : rows.tensors) {
    SIFTD_RETURN_IF_ERROR(Validate(t));
    if (t.shape.empty() || t.rows() != static_cast<std::int64_t>(tensor_rows)) {
      return InvalidArgument("tensor " + RowText(t) + of + " has not " +
                             std::to_string(tensor_rows) + " rows");
    }
  }
  if (layout_.empty()) return CheckRoom(rows.tensors, of);
  if (layout_.size() != rows.tensors.size()) {
    return InvalidArgument(std::to_string(rows.tensors.size()) + " tensors" + of +
                           "; the rows before have " + std::to_string(layout_.size()));
  }
  for (std::size_t i = 0; i < layout_.size(); ++i) {
    if (SameRows(layout_[i], rows.tensors[i])) continue;
    return InvalidArgument("tensor " + RowText(rows.tensors[i]) + of +
                           " cannot stand in one batch with " + RowText(layout_[i]) +
                           " of the rows before; let the loaders pad to one shape");
  }
  return OkStatus();
}

// Memory for a whole batch is taken by what the first rows say.
Status Assembler::CheckRoom(const std::vector<Tensor>& tensors, const std::string& of) const {
  std::uint64_t row = 0;
  for (const Tensor& t : tensors) row += t.row_bytes();
  if (row <= kMostBatchBytes / std::max(1u, options_.batch_size)) return OkStatus();
  return InvalidArgument("a row has " + std::to_string(row) + " bytes" + of +
                         "; allowed: at most " + std::to_string(kMostBatchBytes) + " for " +
                         std::to_string(options_.batch_size) + " rows of a training batch");
}

Status Assembler::Add(Selected rows) {
  if (rows.decision.kept.empty()) return OkStatus();
  SIFTD_RETURN_IF_ERROR(Check(rows, rows.decision.kept.size()));
  Source source;
  source.rows = std::move(rows);
  Push(std::move(source));
  return OkStatus();
}

Status Assembler::AddKeptOf(Selected candidate) {
  if (candidate.decision.kept.empty()) return OkStatus();
  SIFTD_RETURN_IF_ERROR(Check(candidate, candidate.decision.rows));
  Source source;
  source.pick = true;
  source.rows = std::move(candidate);
  Push(std::move(source));
  return OkStatus();
}

void Assembler::Push(Source source) {
  if (layout_.empty()) {
    for (const Tensor& t : source.rows.tensors) layout_.push_back({t.name, t.dtype, t.shape, {}});
  }
  buffered_rows_ += source.rows.sample_id.size();
  sources_.push_back(std::move(source));
  Fill();
}

void Assembler::EndEpoch(std::uint32_t epoch, bool flush) {
  Source mark;
  mark.kind = Source::Kind::kEpoch;
  mark.epoch = epoch;
  mark.flush = flush;
  sources_.push_back(std::move(mark));
}

void Assembler::Finish() {
  Source mark;
  mark.kind = Source::Kind::kRun;
  sources_.push_back(std::move(mark));
}

void Assembler::Fill() {
  while (!sources_.empty() && sources_.front().kind == Source::Kind::kRows) {
    if (building_ == nullptr) {
      building_ = std::make_unique<Building>();
      building_->capacity = options_.batch_size;
      building_->layout = layout_;
      for (const Tensor& t : layout_) {
        building_->memory.push_back(memory_.Take(t.row_bytes() * options_.batch_size));
      }
    }
    const std::uint32_t room = building_->capacity - building_->rows();
    if (room == 0) return;
    Source& source = sources_.front();
    CopyRows(source, std::min(room, source.left()));
    if (source.left() == 0) sources_.pop_front();  // lets go of the message that it came in
  }
}

void Assembler::CopyRows(Source& source, std::uint32_t rows) {
  TrainBatch& to = building_->batch;
  const Decision& d = source.rows.decision;
  const std::uint32_t at = building_->rows();
  for (std::size_t i = 0; i < layout_.size(); ++i) {
    const std::size_t row = layout_[i].row_bytes();
    if (row == 0) continue;
    std::uint8_t* const out = building_->memory[i].get() + at * row;
    const std::uint8_t* const in = source.rows.tensors[i].bytes.data();
    if (source.pick) {
      CopyPicked(out, in, row, std::span(d.kept).subspan(source.next, rows));
    } else {
      std::memcpy(out, in + source.next * row, rows * row);
    }
  }
  constexpr float kUnknown = std::numeric_limits<float>::quiet_NaN();
  for (std::uint32_t i = source.next; i < source.next + rows; ++i) {
    const std::uint32_t candidate = d.kept[i];
    to.sample_id.push_back(source.rows.sample_id[i]);
    to.score.push_back(d.score.empty() ? kUnknown : d.score[candidate]);
    to.keep_probability.push_back(d.keep_probability.empty() ? 1.0f
                                                             : d.keep_probability[candidate]);
    to.weight.push_back(d.weight.empty() ? 1.0f : d.weight[i]);
    to.percentile.push_back(d.percentile.empty() ? kUnknown : d.percentile[candidate]);
  }
  if (to.score_column.empty()) to.score_column = d.column;
  source.next += rows;
  to.spans.push_back({source.rows.key, source.rows.epoch, at, rows, source.left() == 0, d.outcome,
                      d.model_version, d.model_step});
}

TrainBatch Assembler::Close() {
  std::vector<Tensor> tensors = building_->Tensors();
  TrainBatch batch = std::move(building_->batch);
  batch.tensors = std::move(tensors);
  building_.reset();
  buffered_rows_ -= batch.rows();
  for (const RowSpan& span : batch.spans) {
    if (span.last) emptied_.push_back(span.key);
  }
  return batch;
}

void Assembler::DropBuilding() { dropped_rows_ += Close().rows(); }

std::optional<Assembler::Item> Assembler::Take() {
  while (true) {
    Fill();
    const std::uint32_t built = building_ == nullptr ? 0 : building_->rows();
    if (built == options_.batch_size) return Item{Close(), 0};
    if (sources_.empty()) return std::nullopt;
    // All rows before the mark are in the batch being built.
    if (built > 0 && (!options_.drop_last || sources_.front().flush)) return Item{Close(), 0};
    const Source mark = std::move(sources_.front());
    sources_.pop_front();
    if (mark.kind == Source::Kind::kEpoch) return Item{std::nullopt, mark.epoch};
    if (built > 0) DropBuilding();
  }
}

std::vector<BatchKey> Assembler::TakeEmptied() { return std::exchange(emptied_, {}); }

// What is left of a source, through a batch of its own: one way to cut rows out.
TrainBatch Assembler::Alone(const Source& source) const {
  Assembler rest({source.left(), false});
  rest.layout_ = layout_;
  rest.buffered_rows_ = source.left();
  rest.sources_.push_back(source);
  rest.Fill();
  return rest.Close();
}

std::vector<TrainBatch> Assembler::Untaken() const {
  std::vector<TrainBatch> found;
  if (building_ != nullptr && building_->rows() > 0) {
    found.push_back(building_->batch);
    found.back().tensors = building_->Tensors();
  }
  for (const Source& source : sources_) {
    if (source.kind == Source::Kind::kRows) found.push_back(Alone(source));
  }
  return found;
}

Selected Assembler::RowsOf(const BatchKey& key) const {
  std::vector<Selected> pieces;
  if (building_ != nullptr) {
    TrainBatch view = building_->batch;
    view.tensors = building_->Tensors();
    if (Selected rows = ExtractRows(view, key); !rows.sample_id.empty())
      pieces.push_back(std::move(rows));
  }
  for (const Source& source : sources_) {
    if (source.kind != Source::Kind::kRows || source.rows.key != key) continue;
    pieces.push_back(ExtractRows(Alone(source), key));
  }
  if (pieces.empty()) {
    Selected none;
    none.key = key;
    return none;
  }
  return JoinRows(std::move(pieces));
}

}  // namespace siftd
