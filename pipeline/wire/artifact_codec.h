// SPDX-License-Identifier: Apache-2.0
// The manifest inside a scorer archive (proto/siftd/v1/artifact.proto). Pure; any thread.
#pragma once

#include <string>
#include <string_view>

#include "pipeline/base/status.h"
#include "pipeline/data/artifact.h"

namespace siftd {

// Refuses an unknown format, empty inputs or columns, bad types and shapes, and names used twice.
Result<ArtifactManifest> ParseManifest(std::string_view bytes);
std::string SerializeManifest(const ArtifactManifest& manifest);

}  // namespace siftd
