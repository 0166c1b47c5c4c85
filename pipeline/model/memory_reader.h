// SPDX-License-Identifier: Apache-2.0
// LibTorch's archive reader over a Frame: no copy, no temporary file. Internal to pipeline/model.
#pragma once

#include <caffe2/serialize/read_adapter_interface.h>

#include <algorithm>
#include <cstring>

#include "pipeline/base/frame.h"

namespace siftd {

class MemoryReader final : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit MemoryReader(Frame frame) : frame_(std::move(frame)) {}
  size_t size() const override { return frame_.size(); }
  size_t read(uint64_t pos, void* buf, size_t n, const char* /*what*/) const override {
    if (pos >= frame_.size()) return 0;
    const std::size_t got = std::min<std::size_t>(n, frame_.size() - pos);
    std::memcpy(buf, frame_.data() + pos, got);
    return got;
  }

 private:
  const Frame frame_;
};

}  // namespace siftd
