// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/device.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <charconv>

namespace siftd {

Result<DeviceName> ParseDevice(const std::string& text) {
  DeviceName device;
  const std::size_t colon = text.find(':');
  device.type = text.substr(0, colon);
  bool ok = device.type == "cpu" || device.type == "cuda";
  if (ok && colon != std::string::npos) {
    const char* first = text.data() + colon + 1;
    const char* last = text.data() + text.size();
    const auto [end, error] = std::from_chars(first, last, device.index);
    ok = device.type == "cuda" && error == std::errc() && end == last && device.index >= 0;
  }
  if (ok) return device;
  return InvalidArgument("device is '" + text + "'; allowed: cpu, cuda, cuda:N");
}

Status ProbeDevice(const DeviceName& device) {
  if (device.type == "cpu") return OkStatus();
  // The linker sees no use of it, so it is loaded by hand; it registers the CUDA backend.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    return Unavailable("device is '" + ToString(device) + "', but this build's PyTorch " +
                       TorchVersion() +
                       " has no CUDA (libtorch_cuda.so: not found); allowed here: cpu");
  }
  const int count =
      at::globalContext().hasCUDA() ? static_cast<int>(at::accelerator::deviceCount()) : 0;
  if (device.index < count) return OkStatus();
  return Unavailable("device is '" + ToString(device) + "'; this host has " +
                     std::to_string(count) +
                     " CUDA devices. Check nvidia-smi and CUDA_VISIBLE_DEVICES");
}

std::string ToString(const DeviceName& device) {
  return device.type == "cpu" ? "cpu" : device.type + ":" + std::to_string(device.index);
}

std::string TorchVersion() { return TORCH_VERSION; }

}  // namespace siftd
