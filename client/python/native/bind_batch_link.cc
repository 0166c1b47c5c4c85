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

class PyBatchLink {
 public:
  PyBatchLink(std::vector<std::string> endpoints, const std::vector<std::string>& hello,
              std::uint32_t batch_size, std::uint32_t prefetch, bool carry,
              std::size_t history_length, std::vector<float> history, double starve_timeout,
              std::string keys, std::string worker_key)
      : hello_(ParseHello(hello)),
        link_({Client(std::move(endpoints), std::move(keys), std::move(worker_key)),
               hello_,
               {.batch_size = batch_size,
                .carry = carry,
                .history_length = history_length,
                .history = std::move(history)},
               prefetch,
               FromSeconds(starve_timeout)}) {}

  void Start() {
    const py::gil_scoped_release unlocked;
    Check(link_.Start());
  }

  void Stop(bool goodbye) {
    {
      const py::gil_scoped_release unlocked;
      link_.Stop(goodbye);
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
    Selected rows = SavedRows({hello_.loader_index, pass, seq}, epoch, ids, info);
    rows.tensors = ToTensors(fields, lent_);
    const py::gil_scoped_release unlocked;
    Check(link_.Restore(std::move(rows)));
  }

  py::tuple Take(std::uint64_t step) { return ToPython(link_.Take(step)); }

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
    return ToPython(std::move(batches));
  }

  std::vector<float> History() {
    const py::gil_scoped_release unlocked;
    return link_.history();
  }

  py::dict Figures() {
    const BatchLink::Figures f = Get();
    py::dict out = ToPython(f.batches);
    out["late_verdicts"] = f.late_verdicts;
    out["duplicates"] = f.duplicates;
    out["breaker_opened"] = f.breaker_opened;
    out["workers"] = f.connected;
    out["ready"] = f.ready;
    return out;
  }

  // (workers known, undecided candidates, the breaker is open, failure)
  py::tuple State() {
    const BatchLink::Figures f = Get();
    return py::make_tuple(f.workers, f.outstanding, f.breaker_open, f.failure);
  }

 private:
  BatchLink::Figures Get() {
    const py::gil_scoped_release unlocked;
    return link_.figures();
  }

  const Hello hello_;
  LentBuffers lent_;  // outlives the link, which holds what is lent
  BatchLink link_;
};

}  // namespace

void BindBatchLink(py::module_& m) {
  using L = PyBatchLink;
  py::class_<L>(m, "BatchLink")
      .def(py::init<std::vector<std::string>, const std::vector<std::string>&, std::uint32_t,
                    std::uint32_t, bool, std::size_t, std::vector<float>, double, std::string,
                    std::string>(),
           py::arg("endpoints"), py::arg("hello"), py::arg("batch_size"), py::arg("prefetch"),
           py::arg("carry"), py::arg("history_length"), py::arg("history"),
           py::arg("starve_timeout"), py::arg("keys") = "", py::arg("worker_key") = "")
      .def("start", &L::Start)
      .def("stop", &L::Stop, py::arg("goodbye") = true)
      .def("begin", &L::Begin)
      .def("offer", &L::Offer, py::arg("number"), py::arg("seq"), py::arg("epoch"), py::arg("ids"),
           py::arg("occurrence"), py::arg("fields"), py::arg("scored"))
      .def("end", &L::End, py::arg("number"), py::arg("flush"))
      .def("cancel", &L::Cancel)
      .def("restore", &L::Restore)
      .def("take", &L::Take, py::arg("step"))
      .def("wait", &L::Wait, py::arg("seconds"))
      .def("untaken", &L::Untaken)
      .def("history", &L::History)
      .def("figures", &L::Figures)
      .def("state", &L::State);
}

}  // namespace siftd
