// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/artifact_file.h"

#include <caffe2/serialize/inline_container.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <vector>

#include "pipeline/model/memory_reader.h"

namespace siftd {

Result<Frame> ReadFile(const std::string& path) {
  constexpr std::streamoff kMost = 8ll << 30;
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file)
    return NotFound("cannot read '" + path + "'. Export a scorer with siftd.export_scorer");
  const std::streamoff size = file.tellg();
  if (size < 0 || size > kMost)
    return InvalidArgument("'" + path + "' is larger than 8 GiB, or no file");
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(bytes.data()), size);
  if (file.gcount() != size) return DataLoss("'" + path + "' changed while it was read");
  return Frame::Adopt(std::move(bytes));
}

Result<std::string> ReadManifest(const Frame& archive) {
  try {
    caffe2::serialize::PyTorchStreamReader reader(std::make_shared<MemoryReader>(archive));
    const std::string record = std::string("extra/") + kManifestName;
    if (!reader.hasRecord(record)) {
      return InvalidArgument("the archive has no " + std::string(kManifestName) +
                             "; export it with siftd.export_scorer");
    }
    const auto [data, size] = reader.getRecord(record);
    return std::string(static_cast<const char*>(data.get()), size);
  } catch (const std::exception&) {
    return InvalidArgument("not a TorchScript archive (" + std::to_string(archive.size()) +
                           " bytes); export one with siftd.export_scorer");
  }
}

}  // namespace siftd
