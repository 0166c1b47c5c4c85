// SPDX-License-Identifier: Apache-2.0
// Checks of a version of weights before any of it is used. Pure; any thread.
#pragma once

#include <optional>

#include "pipeline/data/artifact.h"
#include "pipeline/model/replica.h"

namespace siftd {

// Names, types, shapes and bytes against the scorer's state; a kFull version names all of it.
std::optional<UpdateError> CheckWeights(const ArtifactManifest& manifest,
                                        const WeightsVersion& weights);

// No tensor holds NaN or infinity. REQUIRES: CheckWeights found nothing
std::optional<UpdateError> CheckFinite(const WeightsVersion& weights);

}  // namespace siftd
