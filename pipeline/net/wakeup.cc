// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/wakeup.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

namespace siftd {

Wakeup::Wakeup() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Wakeup::~Wakeup() { close(fd_); }

void Wakeup::Wake() {
  if (pending_.exchange(true)) return;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written =
      write(fd_, &one, sizeof(one));  // a full counter wakes as well
}

void Wakeup::Clear() {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = read(fd_, &count, sizeof(count));
  pending_.store(false);
}

}  // namespace siftd
