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

const char* NumpyName(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return "bool";
    case DType::kUInt8:
      return "uint8";
    case DType::kInt8:
      return "int8";
    case DType::kInt16:
    case DType::kBFloat16:
      return "int16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kFloat16:
      return "float16";
    case DType::kFloat64:
      return "float64";
    default:
      return "float32";
  }
}

}  // namespace

py::array ToArray(const Tensor& tensor) {
  const py::capsule owner(new Frame(tensor.bytes),
                          [](void* frame) { delete static_cast<Frame*>(frame); });
  return py::array(py::dtype(NumpyName(tensor.dtype)), tensor.shape, tensor.bytes.data(), owner);
}

}  // namespace siftd
