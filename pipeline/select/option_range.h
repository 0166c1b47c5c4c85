// SPDX-License-Identifier: Apache-2.0
// Range checks of policy options: one wording for all. Pure; any thread.
#pragma once

#include <string>

#include "pipeline/base/status.h"

namespace siftd {

// "0.5", "1e-09"
std::string NumberText(double value);
// (0, 1]
Status CheckFraction(const std::string& field, double value);
// [0, 1]
Status CheckUnit(const std::string& field, double value);
// "field is value; allowed: range"
Status OutOfRange(const std::string& field, const std::string& value, const std::string& allowed);

}  // namespace siftd
