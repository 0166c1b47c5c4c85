// SPDX-License-Identifier: Apache-2.0
#include "siftd/state_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

#include "pipeline/wire/state_codec.h"

namespace siftd {
namespace {

Status WriteSynced(const std::string& path, const std::string& bytes) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return Unavailable(std::strerror(errno));
  std::size_t written = 0;
  int error = 0;
  while (error == 0 && written < bytes.size()) {
    const ssize_t n = write(fd, bytes.data() + written, bytes.size() - written);
    if (n >= 0)
      written += static_cast<std::size_t>(n);
    else if (errno != EINTR)
      error = errno;
  }
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
