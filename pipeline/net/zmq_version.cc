// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/zmq_version.h"

#include <zmq.hpp>

namespace siftd {

std::string ZmqVersion() {
  const auto [major, minor, patch] = zmq::version();
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

}  // namespace siftd
