// SPDX-License-Identifier: Apache-2.0
// The device that scores: device-generic (c10) calls only, one source for CPU and CUDA wheels. A
// configured device that is not there is an error, never a silent fall-back to the CPU. Any thread;
// Probe loads libtorch_cuda once.
#pragma once

#include <string>

#include "pipeline/base/status.h"

namespace siftd {

struct DeviceName {
  std::string type = "cpu";  // "cpu" or "cuda"
  int index = 0;
};

// "cpu", "cuda", "cuda:1"
Result<DeviceName> ParseDevice(const std::string& text);
// The device is there and can be used.
Status ProbeDevice(const DeviceName& device);
std::string ToString(const DeviceName& device);
// "2.13.0"
std::string TorchVersion();

}  // namespace siftd
