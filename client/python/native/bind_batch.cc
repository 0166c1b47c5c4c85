// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/python/native/convert.h"

namespace py = pybind11;

namespace siftd {
namespace {

// (rows, epoch, model version, model step, unsifted) of each span of a batch's rows.
py::list Spans(const TrainBatch& batch) {
  py::list spans(batch.spans.size());
  for (std::size_t i = 0; i < batch.spans.size(); ++i) {
    const RowSpan& s = batch.spans[i];
    spans[i] = py::make_tuple(s.rows, s.epoch, s.model_version, s.model_step,
                              s.outcome != Outcome::kDecided);
  }
  return spans;
}

// (pass, seq, rows) of each span; in a stream the pass is (loader, pass).
py::list Keys(const TrainBatch& batch, bool stream) {
  py::list keys(batch.spans.size());
  for (std::size_t i = 0; i < batch.spans.size(); ++i) {
    const RowSpan& s = batch.spans[i];
    py::object pass = py::int_(s.key.pass);
    if (stream) pass = py::make_tuple(s.key.loader, s.key.pass);
    keys[i] = py::make_tuple(std::move(pass), s.key.seq, s.rows);
  }
  return keys;
}

// Mean and most of the trainer steps since the models that scored the rows; 0 where none did.
py::tuple Age(const TrainBatch& batch, std::uint64_t step) {
  std::uint64_t rows = 0;
  std::uint64_t total = 0;
  std::uint64_t most = 0;
  for (const RowSpan& s : batch.spans) {
    if (s.model_version == 0) continue;
    const std::uint64_t age = step > s.model_step ? step - s.model_step : 0;
    rows += s.rows;
    total += age * s.rows;
    most = std::max(most, age);
  }
  return py::make_tuple(rows == 0 ? 0.0 : static_cast<double>(total) / static_cast<double>(rows),
                        most);
}

// They take the tensors' memory with them: what is known of the rows may live on alone.
py::list TakeArrays(TrainBatch& batch) {
  py::list arrays(batch.tensors.size());
  for (std::size_t i = 0; i < batch.tensors.size(); ++i) arrays[i] = ToArray(batch.tensors[i]);
  batch.tensors.clear();
  return arrays;
}

}  // namespace

py::list ToPython(const std::vector<Post>& posts) {
  py::list found(posts.size());
  for (std::size_t i = 0; i < posts.size(); ++i) {
    const BatchKey& key = posts[i].key;
    found[i] = py::make_tuple(key.loader, key.pass, key.seq, posts[i].kept);
  }
  return found;
}

py::tuple ToPython(Taken taken) {
  py::object batch = py::none();
  std::int64_t ended = -1;
  if (taken.item && taken.item->batch) {
    batch = py::cast(std::make_unique<TrainBatch>(std::move(*taken.item->batch)));
  } else if (taken.item) {
    ended = taken.item->epoch;
  }
  return py::make_tuple(std::move(batch), ended, ToPython(taken.posts), std::move(taken.log),
                        std::move(taken.warnings), std::move(taken.error));
}

py::list ToPython(std::vector<TrainBatch> batches) {
  py::list found;
  for (TrainBatch& batch : batches)
    found.append(py::cast(std::make_unique<TrainBatch>(std::move(batch))));
  return found;
}

py::dict ToPython(const BatchFigures& f) {
  py::dict out;
  out["candidates"] = f.candidates;
  out["decided"] = f.decided;
  out["kept"] = f.kept;
  out["dropped"] = f.decided - f.kept;
  out["unsifted"] = f.unsifted;
  out["cancelled"] = f.cancelled;
  out["rejected_batches"] = f.rejected_batches;
  out["scored_rows"] = f.scored_rows;
  out["score_seconds"] = f.score_seconds;
  out["verdicts"] = f.verdicts;
  out["verdict_seconds_sum"] = f.verdict_seconds_sum;
  return out;
}

Selected SavedRows(const BatchKey& key, std::uint32_t epoch, const Ids& ids, const py::dict& info) {
  Selected rows;
  rows.key = key;
  rows.epoch = epoch;
  rows.sample_id = ToVector(ids);
  const auto k = static_cast<std::uint32_t>(rows.sample_id.size());
  Decision& d = rows.decision = UnsiftedDecision(k);
  if (!info["unsifted"].cast<bool>()) d.outcome = Outcome::kDecided;
  d.score = ToVector(info["scores"].cast<Floats>());
  d.keep_probability = ToVector(info["keep_probability"].cast<Floats>());
  d.weight = ToVector(info["weights"].cast<Floats>());
  d.percentile = ToVector(info["percentile"].cast<Floats>());
  d.model_version = info["model_version"].cast<std::uint64_t>();
  d.model_step = info["model_step"].cast<std::uint64_t>();
  return rows;
}

void BindBatch(py::module_& m) {
  py::class_<TrainBatch> c(m, "Batch");
  c.def_property_readonly("rows", &TrainBatch::rows);
  c.def_property_readonly("names", [](const TrainBatch& batch) {
    std::vector<std::string> names;
    for (const Tensor& t : batch.tensors) names.push_back(t.name);
    return names;
  });
  c.def_property_readonly("dtypes", [](const TrainBatch& batch) {
    std::vector<int> dtypes;
    for (const Tensor& t : batch.tensors) dtypes.push_back(static_cast<int>(t.dtype));
    return dtypes;
  });
  // In the order of `names`; the batch's own memory. Once; names and dtypes are gone after it.
  c.def("take_arrays", &TakeArrays);
  c.def("spans", &Spans);
  c.def("keys", &Keys, py::arg("stream"));
  c.def("age", &Age, py::arg("step"));
  const auto view = [&c](const char* name, auto member) {
    c.def_property_readonly(name, [member](py::object self) {
      return View(self.cast<const TrainBatch&>().*member, self);
    });
  };
  view("ids", &TrainBatch::sample_id);
  view("scores", &TrainBatch::score);
  view("keep_probability", &TrainBatch::keep_probability);
  view("weights", &TrainBatch::weight);
  view("percentile", &TrainBatch::percentile);
}

}  // namespace siftd
