// SPDX-License-Identifier: Apache-2.0
// One version of weights as it is published: a flat copy with its digest and checksums. Pure; any
// thread.
#pragma once

#include <cstdint>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/tensor.h"
#include "pipeline/delivery/publisher_core.h"

namespace siftd {

// Copies the tensors' bytes back to back, in their order: the caller may change them afterwards.
// Digest and checksums are left to Seal. Errors: a tensor without a name, or whose bytes do not fit
// its shape.
Result<ModelSnapshot> CopyWeights(const std::vector<Tensor>& weights);

// An archive made by siftd.export_scorer; its bytes are shared.
ModelSnapshot ArtifactSnapshot(Frame archive);

// SHA-256 of all and CRC-32 of each chunk: about 1 s per 400 MB.
void Seal(std::uint32_t chunk_bytes, ModelSnapshot* snapshot);

}  // namespace siftd
