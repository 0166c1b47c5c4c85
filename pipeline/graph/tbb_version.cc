// SPDX-License-Identifier: Apache-2.0
#include "pipeline/graph/tbb_version.h"

#include <oneapi/tbb/version.h>

namespace siftd {

std::string TbbVersion() { return TBB_runtime_version(); }

}  // namespace siftd
