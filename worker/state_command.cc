// SPDX-License-Identifier: Apache-2.0
#include "worker/state_command.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

#include "pipeline/wire/state_codec.h"
#include "worker/exit_code.h"

namespace siftd {
namespace {

int Fail(const std::string& path, const std::string& why) {
  std::fprintf(stderr, "siftd state show: '%s': %s\n", path.c_str(), why.c_str());
  return kExitFailure;
}

// Returns only when there is no such program.
int ShowInPython(const std::string& path) {
  const char* const named = std::getenv("SIFTD_PYTHON");
  const std::string python = named != nullptr ? named : "python3";
  std::string module = "-m", package = "siftd", state = "state", show = "show", program = python,
              file = path;
  std::vector<char*> arguments = {program.data(), module.data(), package.data(), state.data(),
                                  show.data(),    file.data(),   nullptr};
  execvp(python.c_str(), arguments.data());
  return Fail(path, "written by torch.save; to read it, " + python +
                        " is needed, which does not start: " + std::strerror(errno) +
                        ". Name one that has siftd by SIFTD_PYTHON");
}

}  // namespace

int ShowState(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  if (!file || !(bytes << file.rdbuf())) return Fail(path, "cannot be read");
  const Frame content = Frame::Adopt(std::move(bytes).str());
  if (content.view().substr(0, 4) == "PK\x03\x04") return ShowInPython(path);
  const auto read = DecodeTensorFile(content);
  if (!read.ok()) {
    return Fail(path, "neither a state of siftd::SaveState nor of torch.save (" +
                          read.status().message() + ")");
  }
  const auto state = ToTrainerState(*read);
  if (!state.ok()) return Fail(path, state.status().message());
  std::printf("%s\n", read->text.at(kStateText).c_str());
  for (const Tensor& tensor : read->tensors)
    std::printf("%s\n", ToString(TensorSpec{tensor.name, tensor.dtype, tensor.shape}).c_str());
  return kExitOk;
}

}  // namespace siftd
