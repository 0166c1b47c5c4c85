// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/option_range.h"

#include <charconv>
#include <cmath>

namespace siftd {

std::string NumberText(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  return {text, end};
}

Status OutOfRange(const std::string& field, const std::string& value, const std::string& allowed) {
  return InvalidArgument(field + " is " + value + "; allowed: " + allowed);
}

Status CheckFraction(const std::string& field, double value) {
  if (value > 0 && value <= 1) return OkStatus();  // false for NaN
  return OutOfRange(field, NumberText(value), "(0, 1]");
}

Status CheckUnit(const std::string& field, double value) {
  if (value >= 0 && value <= 1) return OkStatus();
  return OutOfRange(field, NumberText(value), "[0, 1]");
}

}  // namespace siftd
