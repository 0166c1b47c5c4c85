// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/device_stream.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace siftd {
namespace {

constexpr int kHighPriority = -1;  // lower is earlier, as in CUDA

}  // namespace

DeviceStream::DeviceStream(c10::Device device, Priority priority) : device_(device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl backend(device.type());
  stream_ = backend.getNewStream(device, priority == Priority::kHigh ? kHighPriority : 0);
}

DeviceStream::Use::Use(const DeviceStream& stream) {
  if (stream.stream_) guard_.emplace(*stream.stream_);
}

void DeviceStream::After(const DeviceStream& other) {
  if (!stream_ || !other.stream_) return;
  c10::Event event(device_.type());
  event.record(*other.stream_);
  event.block(*stream_);
}

void DeviceStream::Wait() {
  if (stream_) c10::impl::VirtualGuardImpl(device_.type()).synchronizeStream(*stream_);
}

void DeviceStream::WaitForDefault(c10::Device device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl backend(device.type());
  backend.synchronizeStream(backend.getDefaultStream(device));
}

}  // namespace siftd
