// SPDX-License-Identifier: Apache-2.0
// A worker's state in Prometheus' text format (prometheus-cpp's serializer). Pure; any thread.
#pragma once

#include <string>

#include "pipeline/data/messages.h"

namespace siftd {

std::string MetricsText(const StatusReply& status);

}  // namespace siftd
