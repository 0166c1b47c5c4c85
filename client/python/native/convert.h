// SPDX-License-Identifier: Apache-2.0
// Python's values as siftd's, and back. With the interpreter lock.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "client/python/native/batch_figures.h"
#include "client/python/native/door.h"
#include "client/python/native/lent_buffers.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "siftd/client_options.h"

namespace siftd {

using Ids = pybind11::array_t<std::uint64_t, pybind11::array::c_style | pybind11::array::forcecast>;
using Counts =
    pybind11::array_t<std::uint32_t, pybind11::array::c_style | pybind11::array::forcecast>;
using Floats = pybind11::array_t<float, pybind11::array::c_style | pybind11::array::forcecast>;

template <typename T, int flags>
std::vector<T> ToVector(const pybind11::array_t<T, flags>& array) {
  return {array.data(), array.data() + array.size()};
}

// A view of a vector that `owner`, a Python object, holds.
template <typename T>
pybind11::array_t<T> View(const std::vector<T>& values, pybind11::handle owner) {
  return pybind11::array_t<T>(static_cast<pybind11::ssize_t>(values.size()), values.data(), owner);
}

Duration FromSeconds(double seconds);

// Raises RuntimeError.
void Check(const Status& status);

// Where a link connects to, and with which key files ("" = none).
ClientOptions Client(std::vector<std::string> endpoints, std::string keys, std::string worker_key);

// The Hello that Python's codec wrote: one reader of its many fields is enough.
Hello ParseHello(const std::vector<std::string>& frames);

// `named`: (name, dtype number, shape, buffer) of each; the buffers are lent, not copied.
std::vector<Tensor> ToTensors(const pybind11::sequence& named, LentBuffers& lent);

// A writable array over the tensor's memory, which it keeps; bfloat16, which NumPy has not, as
// int16. The batch must own that memory.
pybind11::array ToArray(const Tensor& tensor);

// (loader, pass, seq, kept rows) of each.
pybind11::list ToPython(const std::vector<Post>& posts);
// (batch or None, pass or epoch that ended or -1, posts, log, warnings, error)
pybind11::tuple ToPython(Taken taken);
pybind11::list ToPython(std::vector<TrainBatch> batches);
pybind11::dict ToPython(const BatchFigures& figures);

// Rows of a state but for their tensors; `info`: what is known of them, by the names of BatchInfo.
Selected SavedRows(const BatchKey& key, std::uint32_t epoch, const Ids& ids,
                   const pybind11::dict& info);

void BindBatch(pybind11::module_& m);
void BindStreamLink(pybind11::module_& m);
void BindDecision(pybind11::module_& m);
void BindLoaderLink(pybind11::module_& m);
void BindBatchLink(pybind11::module_& m);

}  // namespace siftd
