// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/python/native/batch_link.h"
#include "client/python/native/convert.h"

namespace py = pybind11;

namespace siftd {
namespace {

// Of each span of a batch's rows.
py::list Spans(const TrainBatch& batch) {
  py::list spans(batch.spans.size());
  for (std::size_t i = 0; i < batch.spans.size(); ++i) {
    const RowSpan& s = batch.spans[i];
    spans[i] = py::make_tuple(s.key.pass, s.key.seq, s.rows, s.epoch, s.model_version, s.model_step,
                              s.outcome != Outcome::kDecided);
  }
  return spans;
}

py::list Arrays(const TrainBatch& batch) {
  py::list arrays(batch.tensors.size());
  for (std::size_t i = 0; i < batch.tensors.size(); ++i) arrays[i] = ToArray(batch.tensors[i]);
  return arrays;
}

class PyBatchLink {
 public:
  PyBatchLink(std::vector<std::string> endpoints, const std::vector<std::string>& hello,
              std::uint32_t batch_size, std::uint32_t prefetch, bool carry,
              std::size_t history_length, std::vector<float> history, double starve_timeout)
      : hello_(ParseHello(hello)),
        link_({std::move(endpoints), hello_,
               {.batch_size = batch_size,
                .carry = carry,
                .history_length = history_length,
                .history = std::move(history)},
               prefetch, FromSeconds(starve_timeout)}) {}

  void Start() {
    const py::gil_scoped_release unlocked;
    Check(link_.Start());
  }

  void Stop() {
    {
      const py::gil_scoped_release unlocked;
      link_.Stop();
    }
    lent_.LetGo();
  }

  // `fields`: (name, dtype number, shape, buffer) of each; `scored`: indices of those that the
  // workers read, in their order. False: the pass was given up.
  bool Offer(std::uint64_t pass, std::uint64_t seq, std::uint32_t epoch, const Ids& ids,
             const Counts& occurrence, const py::sequence& fields,
             const std::vector<std::size_t>& scored) {
    lent_.LetGo();
    BatchMaker::Candidate all;
    all.key = {hello_.loader_index, pass, seq};
    all.epoch = epoch;
    all.sample_id = ToVector(ids);
    all.fields = ToTensors(fields, lent_);
    Candidates sent;
    sent.key = all.key;
    sent.epoch = epoch;
    sent.sample_id = all.sample_id;
    sent.occurrence = ToVector(occurrence);
    for (const std::size_t i : scored) sent.tensors.push_back(all.fields.at(i));
    const py::gil_scoped_release unlocked;
    while (true) {
      const auto offered = link_.Offer(all, sent, milliseconds(500));
      if (offered != BatchLink::Offered::kFull) return offered == BatchLink::Offered::kTaken;
    }
  }

  void Begin(std::uint64_t pass) { link_.Begin(pass); }
  void End(std::uint64_t pass, bool flush) { link_.End(pass, flush); }

  void Cancel() {
    const py::gil_scoped_release unlocked;
    link_.Cancel();
  }

  void Restore(std::uint64_t pass, std::uint64_t seq, std::uint32_t epoch, const Ids& ids,
               const py::sequence& fields, const py::dict& info) {
    Selected rows;
    rows.key = {hello_.loader_index, pass, seq};
    rows.epoch = epoch;
    rows.sample_id = ToVector(ids);
    rows.tensors = ToTensors(fields, lent_);
    const auto k = static_cast<std::uint32_t>(rows.sample_id.size());
    Decision& d = rows.decision = UnsiftedDecision(k);
    if (!info["unsifted"].cast<bool>()) d.outcome = Outcome::kDecided;
    d.score = ToVector(info["scores"].cast<Floats>());
    d.keep_probability = ToVector(info["keep_probability"].cast<Floats>());
    d.weight = ToVector(info["weights"].cast<Floats>());
    d.percentile = ToVector(info["percentile"].cast<Floats>());
    d.model_version = info["model_version"].cast<std::uint64_t>();
    d.model_step = info["model_step"].cast<std::uint64_t>();
    const py::gil_scoped_release unlocked;
    Check(link_.Restore(std::move(rows)));
  }

  void SetStep(std::uint64_t step) {
    const py::gil_scoped_release unlocked;
    link_.SetStep(step);
  }

  // (batch or None, pass that ended or -1, posts, log, warnings, error)
  py::tuple Take() {
    BatchLink::Taken taken = link_.Take();
    py::list posts(taken.posts.size());
    for (std::size_t i = 0; i < taken.posts.size(); ++i) {
      const BatchMaker::Post& post = taken.posts[i];
      posts[i] = py::make_tuple(post.key.pass, post.key.seq, post.kept);
    }
    py::object batch = py::none();
    std::int64_t ended = -1;
    if (taken.item && taken.item->batch) {
      batch = py::cast(std::make_unique<TrainBatch>(std::move(*taken.item->batch)));
    } else if (taken.item) {
      ended = taken.item->epoch;
    }
    return py::make_tuple(std::move(batch), ended, std::move(posts), std::move(taken.log),
                          std::move(taken.warnings), std::move(taken.error));
  }

  void Wait(double seconds) {
    const py::gil_scoped_release unlocked;
    link_.Wait(FromSeconds(seconds));
  }

  py::list Untaken() {
    std::vector<TrainBatch> batches;
    {
      const py::gil_scoped_release unlocked;
      batches = link_.Untaken();
    }
    py::list found;
    for (TrainBatch& batch : batches)
      found.append(py::cast(std::make_unique<TrainBatch>(std::move(batch))));
    return found;
  }

  std::vector<float> History() {
    const py::gil_scoped_release unlocked;
    return link_.history();
  }

  py::dict Figures() {
    BatchLink::Figures f;
    {
      const py::gil_scoped_release unlocked;
      f = link_.figures();
    }
    py::dict out;
    out["candidates"] = f.batches.candidates;
    out["decided"] = f.batches.decided;
    out["kept"] = f.batches.kept;
    out["dropped"] = f.batches.decided - f.batches.kept;
    out["unsifted"] = f.batches.unsifted;
    out["cancelled"] = f.batches.cancelled;
    out["rejected_batches"] = f.batches.rejected_batches;
    out["scored_rows"] = f.batches.scored_rows;
    out["score_seconds"] = f.batches.score_seconds;
    out["verdicts"] = f.batches.verdicts;
    out["verdict_seconds_sum"] = f.batches.verdict_seconds_sum;
    out["late_verdicts"] = f.late_verdicts;
    out["duplicates"] = f.duplicates;
    out["breaker_opened"] = f.breaker_opened;
    out["workers"] = f.connected;
    out["ready"] = f.ready;
    return out;
  }

  // (workers known, undecided candidates, the breaker is open, failure)
  py::tuple State() {
    BatchLink::Figures f;
    {
      const py::gil_scoped_release unlocked;
      f = link_.figures();
    }
    return py::make_tuple(f.workers, f.outstanding, f.breaker_open, f.failure);
  }

 private:
  const Hello hello_;
  BatchLink link_;
  LentBuffers lent_;
};

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
  // In the order of `names`; the batch's own memory.
  c.def("arrays", &Arrays);
  // (pass, seq, rows, epoch, model version, model step, unsifted) of each span of rows.
  c.def("spans", &Spans);
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

}  // namespace

void BindBatchLink(py::module_& m) {
  BindBatch(m);
  using L = PyBatchLink;
  py::class_<L>(m, "BatchLink")
      .def(py::init<std::vector<std::string>, const std::vector<std::string>&, std::uint32_t,
                    std::uint32_t, bool, std::size_t, std::vector<float>, double>(),
           py::arg("endpoints"), py::arg("hello"), py::arg("batch_size"), py::arg("prefetch"),
           py::arg("carry"), py::arg("history_length"), py::arg("history"),
           py::arg("starve_timeout"))
      .def("start", &L::Start)
      .def("stop", &L::Stop)
      .def("begin", &L::Begin)
      .def("offer", &L::Offer, py::arg("number"), py::arg("seq"), py::arg("epoch"), py::arg("ids"),
           py::arg("occurrence"), py::arg("fields"), py::arg("scored"))
      .def("end", &L::End, py::arg("number"), py::arg("flush"))
      .def("cancel", &L::Cancel)
      .def("restore", &L::Restore)
      .def("set_step", &L::SetStep)
      .def("take", &L::Take)
      .def("wait", &L::Wait, py::arg("seconds"))
      .def("untaken", &L::Untaken)
      .def("history", &L::History)
      .def("figures", &L::Figures)
      .def("state", &L::State);
}

}  // namespace siftd
