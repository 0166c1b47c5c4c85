// SPDX-License-Identifier: Apache-2.0
#include "siftd/torch_bridge.h"

int main() {
  const at::Tensor sent = at::arange(6).reshape({2, 3});
  const auto tensor = siftd::FromTorch(sent, "x");
  return tensor.ok() && at::equal(siftd::ToTorch(*tensor), sent) ? 0 : 1;
}
