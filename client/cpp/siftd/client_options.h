// SPDX-License-Identifier: Apache-2.0
// ClientOptions: what every client of a worker pool is told. Value.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"

namespace siftd {

struct ClientOptions {
  // tcp://HOST:PORT (a name stands for all its addresses, looked up again every 10 s) or
  // ipc://PATH.
  std::vector<std::string> endpoints;
  std::string job = "default";
  std::string name;  // in logs and `siftd status`; empty: role and process id
  // For workers with keys: this client's secret key file and the workers' public one, made by
  // `siftd keygen`. `keys` empty: connections are not encrypted. `worker_key` empty: the file
  // worker.key beside `keys`. Files are read when the client connects.
  std::string keys;
  std::string worker_key;
  // One line per event (a worker lost, a refusal). Called on the client's I/O thread; must not
  // block. Empty: nothing is told.
  std::function<void(const std::string&)> log;
};

// Errors name the field, its value and what is allowed.
Status Validate(const ClientOptions& options);

// "name is 7; allowed: [1, 5]" unless least <= value <= most.
Status CheckRange(const char* name, std::uint64_t value, std::uint64_t least, std::uint64_t most);

// `given`, or "ROLE PID".
std::string ClientName(const std::string& given, const char* role);

}  // namespace siftd
