// SPDX-License-Identifier: Apache-2.0
#include "siftd/state_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string_view>

#include "pipeline/base/fault_point.h"
#include "pipeline/wire/state_codec.h"

namespace siftd {
namespace {

// 0 or errno.
int WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n >= 0)
      bytes.remove_prefix(static_cast<std::size_t>(n));
    else if (errno != EINTR)
      return errno;
  }
  return 0;
}

Status WriteSynced(const std::string& path, std::string_view bytes) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return Unavailable(std::strerror(errno));
  const std::size_t half = bytes.size() / 2;
  int error = WriteAll(fd, bytes.substr(0, half));
  FaultPoint("state");
  if (error == 0) error = WriteAll(fd, bytes.substr(half));
  if (error == 0 && fsync(fd) != 0) error = errno;
  if (close(fd) != 0 && error == 0) error = errno;
  return error == 0 ? OkStatus() : Unavailable(std::strerror(error));
}

}  // namespace

Status SaveState(const TrainerState& state, const std::string& path) {
  const std::string partial = path + ".partial";
  Status status = WriteSynced(partial, EncodeTensorFile(ToTensorFile(state)));
  if (status.ok() && std::rename(partial.c_str(), path.c_str()) != 0)
    status = Unavailable(std::strerror(errno));
  if (status.ok()) return status;
  std::remove(partial.c_str());
  return Unavailable("cannot write the state to '" + path + "': " + status.message());
}

Result<TrainerState> LoadState(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  if (!file || !(bytes << file.rdbuf())) return NotFound("cannot read a state from '" + path + "'");
  auto read = DecodeTensorFile(Frame::Adopt(std::move(bytes).str()));
  if (!read.ok()) return InvalidArgument("'" + path + "': " + read.status().message());
  auto state = ToTrainerState(*read);
  if (!state.ok()) return InvalidArgument("'" + path + "': " + state.status().message());
  return state;
}

}  // namespace siftd
