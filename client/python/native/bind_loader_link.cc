// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/python/native/convert.h"
#include "client/python/native/loader_link.h"

namespace py = pybind11;

namespace siftd {
namespace {

class PyLoaderLink {
 public:
  PyLoaderLink(std::vector<std::string> endpoints, const std::vector<std::string>& hello,
               std::string keys, std::string worker_key)
      : link_(Client(std::move(endpoints), std::move(keys), std::move(worker_key)),
              ParseHello(hello)),
        loader_(ParseHello(hello).loader_index) {}

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

  // `tensors`: (name, dtype number, shape, buffer).
  void Offer(std::uint64_t pass, std::uint64_t seq, std::uint32_t epoch, const Ids& ids,
             const Counts& occurrence, const py::sequence& tensors, const Floats& prior) {
    Candidates batch;
    batch.key = {loader_, pass, seq};
    batch.epoch = epoch;
    batch.sample_id = ToVector(ids);
    batch.occurrence = ToVector(occurrence);
    batch.prior_score = ToVector(prior);
    batch.tensors = ToTensors(tensors, lent_);
    Check(link_.Offer(std::move(batch)));
  }

  bool HasRoom() { return link_.HasRoom(); }
  void CancelPass(std::uint64_t pass) { link_.CancelPass(pass); }
  void CloseLease(std::uint64_t pass, std::uint64_t seq) { link_.CloseLease({loader_, pass, seq}); }
  void SetStep(std::uint64_t step) { link_.SetStep(step); }

  void Wait(double seconds, bool quiet) {
    const py::gil_scoped_release unlocked;
    link_.Wait(FromSeconds(seconds), quiet);
  }

  void Wake() { link_.Wake(); }

  // Verdicts as (pass, seq, Decision, seconds); ages of late ones; lines for the log.
  py::tuple Take() {
    lent_.LetGo();
    LoaderLink::Taken taken = link_.Take();
    py::list verdicts(taken.verdicts.size());
    for (std::size_t i = 0; i < taken.verdicts.size(); ++i) {
      Verdict& v = taken.verdicts[i].verdict;
      const BatchKey key = v.key;
      verdicts[i] =
          py::make_tuple(key.pass, key.seq, std::make_unique<Decision>(std::move(v.decision)),
                         taken.verdicts[i].seconds);
    }
    return py::make_tuple(std::move(verdicts), std::move(taken.late_seconds), std::move(taken.log));
  }

  const LoaderLink& link() const { return link_; }

 private:
  LentBuffers lent_;  // outlives the link, which holds what is lent
  LoaderLink link_;
  const std::uint32_t loader_;
};

}  // namespace

void BindDecision(py::module_& m) {
  // The wire's Decision, with arrays where that has lists.
  py::class_<Decision> c(m, "Decision");
  c.def_property_readonly("outcome", [](const Decision& d) { return static_cast<int>(d.outcome); });
  c.def_property_readonly("code", [](const Decision& d) { return static_cast<int>(d.code); });
  c.def_readonly("text", &Decision::text);
  c.def_readonly("rows", &Decision::rows);
  c.def_readonly("column", &Decision::column);
  c.def_readonly("model_version", &Decision::model_version);
  c.def_readonly("model_step", &Decision::model_step);
  c.def_readonly("score_seconds", &Decision::score_seconds);
  const auto view = [&c](const char* name, auto member) {
    c.def_property_readonly(name, [member](py::object self) {
      return View(self.cast<const Decision&>().*member, self);
    });
  };
  view("kept", &Decision::kept);
  view("score", &Decision::score);
  view("keep_probability", &Decision::keep_probability);
  view("weight", &Decision::weight);
  view("percentile", &Decision::percentile);
}

void BindLoaderLink(py::module_& m) {
  using L = PyLoaderLink;
  py::class_<L>(m, "LoaderLink")
      .def(py::init<std::vector<std::string>, const std::vector<std::string>&, std::string,
                    std::string>(),
           py::arg("endpoints"), py::arg("hello"), py::arg("keys") = "", py::arg("worker_key") = "")
      .def("start", &L::Start)
      .def("stop", &L::Stop)
      .def("offer", &L::Offer, py::arg("number"), py::arg("seq"), py::arg("epoch"), py::arg("ids"),
           py::arg("occurrence"), py::arg("tensors"), py::arg("prior"))
      .def("has_room", &L::HasRoom)
      .def("cancel_pass", &L::CancelPass)
      .def("close_lease", &L::CloseLease)
      .def("set_step", &L::SetStep)
      .def("wait", &L::Wait, py::arg("seconds"), py::arg("quiet"))
      .def("wake", &L::Wake)
      .def("take", &L::Take)
      .def_property_readonly("workers", [](const L& l) { return l.link().workers(); })
      .def_property_readonly("connected", [](const L& l) { return l.link().connected(); })
      .def_property_readonly("late_verdicts", [](const L& l) { return l.link().late_verdicts(); })
      .def_property_readonly("failure", [](const L& l) { return l.link().failure(); });
}

}  // namespace siftd
