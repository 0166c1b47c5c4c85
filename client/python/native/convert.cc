// SPDX-License-Identifier: Apache-2.0
#include "client/python/native/convert.h"

#include <chrono>
#include <stdexcept>
#include <utility>

#include "pipeline/wire/codec.h"

namespace py = pybind11;

namespace siftd {

Duration FromSeconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

void Check(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

ClientOptions Client(std::vector<std::string> endpoints, std::string keys, std::string worker_key) {
  ClientOptions client;
  client.endpoints = std::move(endpoints);
  client.keys = std::move(keys);
  client.worker_key = std::move(worker_key);
  return client;
}

Hello ParseHello(const std::vector<std::string>& frames) {
  Frames owned;
  for (const std::string& frame : frames) owned.push_back(Frame::Copy(frame.data(), frame.size()));
  auto message = Decode(owned);
  Check(message.status());
  Hello* const hello = std::get_if<Hello>(&message.value());
  if (hello == nullptr) throw std::runtime_error("these frames are no Hello");
  return std::move(*hello);
}

std::vector<Tensor> ToTensors(const py::sequence& named, LentBuffers& lent) {
  std::vector<Tensor> tensors;
  tensors.reserve(named.size());
  for (const py::handle item : named) {
    const auto t = py::reinterpret_borrow<py::tuple>(item);
    tensors.push_back({t[0].cast<std::string>(), static_cast<DType>(t[1].cast<int>()),
                       t[2].cast<std::vector<std::int64_t>>(), lent.Lend(t[3])});
  }
  return tensors;
}

namespace {

// NumPy's numbers of its types (NPY_TYPES), on the LP64 hosts that siftd runs on.
int NumpyType(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return 0;
    case DType::kInt8:
      return 1;
    case DType::kUInt8:
      return 2;
    case DType::kInt16:
    case DType::kBFloat16:
      return 3;
    case DType::kInt32:
      return 5;
    case DType::kInt64:
      return 7;
    case DType::kFloat16:
      return 23;
    case DType::kFloat64:
      return 12;
    default:
      return 11;
  }
}

}  // namespace

py::array ToArray(const Tensor& tensor) {
  const py::capsule owner(new Frame(tensor.bytes),
                          [](void* frame) { delete static_cast<Frame*>(frame); });
  return py::array(py::dtype(NumpyType(tensor.dtype)), tensor.shape, tensor.bytes.data(), owner);
}

}  // namespace siftd
