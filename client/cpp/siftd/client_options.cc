// SPDX-License-Identifier: Apache-2.0
#include "siftd/client_options.h"

#include <unistd.h>

namespace siftd {

Status Validate(const ClientOptions& options) {
  if (options.endpoints.empty())
    return InvalidArgument(
        "endpoints is empty; allowed: at least one tcp://HOST:PORT or ipc://PATH");
  for (const std::string& endpoint : options.endpoints) {
    if (endpoint.rfind("tcp://", 0) != 0 && endpoint.rfind("ipc://", 0) != 0) {
      return InvalidArgument("endpoints holds '" + endpoint +
                             "'; allowed: tcp://HOST:PORT or ipc://PATH");
    }
  }
  if (options.keys.empty() && !options.worker_key.empty()) {
    return InvalidArgument("worker_key is '" + options.worker_key +
                           "'; allowed: only with keys, this client's secret key file");
  }
  if (options.job.empty()) return InvalidArgument("job is empty; allowed: a name");
  return OkStatus();
}

Status CheckRange(const char* name, std::uint64_t value, std::uint64_t least, std::uint64_t most) {
  if (value >= least && value <= most) return OkStatus();
  return InvalidArgument(std::string(name) + " is " + std::to_string(value) + "; allowed: [" +
                         std::to_string(least) + ", " + std::to_string(most) + "]");
}

std::string ClientName(const std::string& given, const char* role) {
  return given.empty() ? std::string(role) + " " + std::to_string(getpid()) : given;
}

}  // namespace siftd
