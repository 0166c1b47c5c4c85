// SPDX-License-Identifier: Apache-2.0
// The worker's flags: one per config field, so that flag > file > default. The main thread.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "worker/config.h"

namespace siftd {

class ConfigFlags {
 public:
  // Adds --config and a flag for each field to `command`.
  void AddTo(CLI::App* command);
  // Default, then the file of --config, then the flags that were given; validated.
  Result<WorkerConfig> Resolve() const;

 private:
  template <typename T>
  void Add(CLI::App* command, const std::string& name, T WorkerConfig::*field,
           const std::string& help);
  void AddSize(CLI::App* command, const std::string& name, std::uint64_t WorkerConfig::*field,
               const std::string& help);

  std::string config_path_;
  WorkerConfig flags_;  // holds what the flags say
  std::string policy_text_;
  std::vector<std::function<void(WorkerConfig*)>> given_;  // copies a flag's value if it was given
};

}  // namespace siftd
