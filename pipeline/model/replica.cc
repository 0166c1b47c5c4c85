// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/replica.h"

namespace siftd {

Status Replica::CheckInputs(const std::vector<Tensor>& tensors) const {
  for (const TensorSpec& spec : manifest().inputs) {
    const Tensor* found = nullptr;
    std::string names;
    for (const Tensor& tensor : tensors) {
      names += (names.empty() ? "" : ", ") + tensor.name;
      if (tensor.name == spec.name) found = &tensor;
    }
    if (found == nullptr) {
      return InvalidArgument("the batch lacks the model's input '" + spec.name +
                             "'; it has: " + names);
    }
    SIFTD_RETURN_IF_ERROR(Matches(*found, spec));
  }
  return OkStatus();
}

}  // namespace siftd
