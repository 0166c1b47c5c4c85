// SPDX-License-Identifier: Apache-2.0
// TensorFile: texts and tensors in one file, in the safetensors format (8 bytes little-endian: the
// header's length; a JSON header of names, types, shapes and places; the tensors' bytes), so that
// any tool that reads that format shows what is in it. Pure; any thread. Foreign bytes give an
// error that names the field.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "pipeline/base/frame.h"
#include "pipeline/base/status.h"
#include "pipeline/data/tensor.h"

namespace siftd {

struct TensorFile {
  std::map<std::string, std::string> text;  // the header's "__metadata__"
  std::vector<Tensor> tensors;              // by name
};

// REQUIRES: tensors Validate(), each name once.
std::string EncodeTensorFile(const TensorFile& file);
// The tensors share the file's bytes.
Result<TensorFile> DecodeTensorFile(const Frame& bytes);

}  // namespace siftd
