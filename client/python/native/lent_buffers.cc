// SPDX-License-Identifier: Apache-2.0
#include "client/python/native/lent_buffers.h"

#include <mutex>
#include <utility>
#include <vector>

namespace siftd {

struct LentBuffers::Returned {
  std::mutex mu;
  std::vector<Py_buffer> views;
};

// Keeps a view while a frame lives.
struct LentBuffers::Loan {
  ~Loan() {
    const std::lock_guard lock(to->mu);
    to->views.push_back(view);
  }
  Py_buffer view{};
  std::shared_ptr<Returned> to;
};

LentBuffers::LentBuffers() : returned_(std::make_shared<Returned>()) {}
LentBuffers::~LentBuffers() { LetGo(); }

Frame LentBuffers::Lend(pybind11::handle buffer) {
  Py_buffer view{};
  if (PyObject_GetBuffer(buffer.ptr(), &view, PyBUF_C_CONTIGUOUS) != 0)
    throw pybind11::error_already_set();
  auto loan = std::make_shared<Loan>();
  loan->view = view;
  loan->to = returned_;
  const void* const data = view.buf;
  const auto size = static_cast<std::size_t>(view.len);
  return {std::move(loan), data, size};
}

void LentBuffers::LetGo() {
  std::vector<Py_buffer> views;
  {
    const std::lock_guard lock(returned_->mu);
    views.swap(returned_->views);
  }
  for (Py_buffer& view : views) PyBuffer_Release(&view);
}

}  // namespace siftd
