// SPDX-License-Identifier: Apache-2.0
// libFuzzer's entry; built once per target with SIFTD_FUZZ_TARGET set to its name.
#include <string_view>

#include "pipeline/wire/codec.h"
#include "tests/fuzz/targets.h"

namespace {

constexpr siftd::fuzz::Target Find(std::string_view name) {
  for (const siftd::fuzz::Target& target : siftd::fuzz::kTargets) {
    if (target.name == name) return target;
  }
  return {nullptr, nullptr};
}

constexpr siftd::fuzz::Target kTarget = Find(SIFTD_FUZZ_TARGET);
static_assert(kTarget.run != nullptr, "no target of this name in targets.h");

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  siftd::QuietProtobuf();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  kTarget.run({data, size});
  return 0;
}
