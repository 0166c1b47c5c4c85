// SPDX-License-Identifier: Apache-2.0
// The manifest inside a scorer archive, as bytes: this folder knows no protobuf. Any thread.
#pragma once

#include <string>

#include "pipeline/base/frame.h"
#include "pipeline/base/status.h"

namespace siftd {

inline constexpr char kManifestName[] = "siftd.manifest";

// Whole file. Errors: not there, not readable, above 8 GiB.
Result<Frame> ReadFile(const std::string& path);

// The extra file kManifestName of a TorchScript archive. Loads code: `archive` must be trusted.
Result<std::string> ReadManifest(const Frame& archive);

}  // namespace siftd
