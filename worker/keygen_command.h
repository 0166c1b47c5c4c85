// SPDX-License-Identifier: Apache-2.0
// `siftd keygen`: makes the key files of a worker or a client. The main thread.
#pragma once

#include <string>
#include <vector>

namespace siftd {

struct KeygenOptions {
  std::string folder;
  std::vector<std::string> roles;  // client
  std::string name;                // client
  bool force = false;              // replaces files that are there
};

// Each tells on standard output what it wrote and where that belongs; the exit code.
int RunKeygenWorker(const KeygenOptions& options);
int RunKeygenClient(const KeygenOptions& options);

}  // namespace siftd
