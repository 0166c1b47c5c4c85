// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <utility>
#include <vector>

#include "client/python/native/convert.h"
#include "client/python/native/stream_link.h"

namespace py = pybind11;

namespace siftd {
namespace {

class PyStreamLink {
 public:
  PyStreamLink(std::vector<std::string> endpoints, const std::vector<std::string>& hello,
               std::uint32_t loader_count, std::uint32_t batch_size, std::uint32_t window,
               std::uint32_t prefetch, bool endless, bool drop_last, std::size_t history_length,
               std::vector<float> history, std::string keys, std::string worker_key)
      : link_({Client(std::move(endpoints), std::move(keys), std::move(worker_key)),
               ParseHello(hello), loader_count, batch_size, window, prefetch, endless, drop_last,
               history_length, std::move(history)}) {}

  void Start() {
    const py::gil_scoped_release unlocked;
    Check(link_.Start());
  }

  void Stop(bool goodbye) {
    const py::gil_scoped_release unlocked;
    link_.Stop(goodbye);
  }

  void Restore(std::uint32_t loader, std::uint64_t pass, std::uint64_t seq, std::uint32_t epoch,
               const Ids& ids, const py::sequence& fields, const py::dict& info) {
    Selected rows = SavedRows({loader, pass, seq}, epoch, ids, info);
    rows.tensors = ToTensors(fields, lent_);
    const py::gil_scoped_release unlocked;
    Check(link_.Restore(std::move(rows)));
  }

  py::tuple Take(std::uint64_t step) {
    lent_.LetGo();
    return ToPython(link_.Take(step));
  }

  void Wait(double seconds) {
    const py::gil_scoped_release unlocked;
    link_.Wait(FromSeconds(seconds));
  }

  // (posts, next pass by loader, untaken batches)
  py::tuple Position() {
    StreamLink::Position p;
    {
      const py::gil_scoped_release unlocked;
      p = link_.TakePosition();
    }
    return py::make_tuple(ToPython(p.posts), std::move(p.next_pass),
                          ToPython(std::move(p.untaken)));
  }

  bool Finish(double linger) {
    const py::gil_scoped_release unlocked;
    return link_.Finish(FromSeconds(linger));
  }

  py::dict Figures() {
    StreamLink::Figures f = Get();
    py::dict out = ToPython(f.batches);
    out["duplicates"] = f.duplicates;
    out["workers"] = f.connected;
    out["ready"] = f.ready;
    return out;
  }

  // (workers known, those connected, failure, what is waited for)
  py::tuple State() {
    StreamLink::Figures f = Get();
    return py::make_tuple(f.workers, f.connected, std::move(f.failure), std::move(f.waiting_for));
  }

  std::vector<float> History() {
    const py::gil_scoped_release unlocked;
    return link_.history();
  }

 private:
  StreamLink::Figures Get() {
    const py::gil_scoped_release unlocked;
    return link_.figures();
  }

  LentBuffers lent_;  // outlives the link, which holds what is lent
  StreamLink link_;
};

}  // namespace

void BindStreamLink(py::module_& m) {
  using L = PyStreamLink;
  py::class_<L>(m, "StreamLink")
      .def(py::init<std::vector<std::string>, const std::vector<std::string>&, std::uint32_t,
                    std::uint32_t, std::uint32_t, std::uint32_t, bool, bool, std::size_t,
                    std::vector<float>, std::string, std::string>(),
           py::arg("endpoints"), py::arg("hello"), py::arg("loader_count"), py::arg("batch_size"),
           py::arg("window"), py::arg("prefetch"), py::arg("endless"), py::arg("drop_last"),
           py::arg("history_length"), py::arg("history"), py::arg("keys") = "",
           py::arg("worker_key") = "")
      .def("start", &L::Start)
      .def("stop", &L::Stop, py::arg("goodbye") = true)
      .def("restore", &L::Restore)
      .def("take", &L::Take, py::arg("step"))
      .def("wait", &L::Wait, py::arg("seconds"))
      .def("position", &L::Position)
      .def("finish", &L::Finish, py::arg("linger"))
      .def("figures", &L::Figures)
      .def("state", &L::State)
      .def("history", &L::History);
}

}  // namespace siftd
