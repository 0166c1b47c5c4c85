// SPDX-License-Identifier: Apache-2.0
// The program's log (spdlog): text or JSON lines on standard error or in a file. Any thread once
// made.
#pragma once

#include <spdlog/spdlog.h>

#include <memory>

#include "pipeline/base/status.h"
#include "worker/config.h"

namespace siftd {

using Log = std::shared_ptr<spdlog::logger>;

Result<Log> MakeLog(const WorkerConfig& config, const std::string& name);

}  // namespace siftd
