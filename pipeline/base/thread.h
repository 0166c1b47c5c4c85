// SPDX-License-Identifier: Apache-2.0
// Thread: a named thread that is joined by its destructor. Whoever owns it tells its body to end
// first.
#pragma once

#include <functional>
#include <string>
#include <thread>

namespace siftd {

class Thread {
 public:
  Thread() = default;
  // `name`: at most 15 bytes are shown by the system's tools.
  Thread(const std::string& name, std::function<void()> body);
  Thread(Thread&&) = default;
  Thread& operator=(Thread&&) = default;
  ~Thread() { Join(); }

  void Join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::thread thread_;
};

// From now on the calling thread, when it wakes up, waits for its core instead of taking it from
// the thread that computes there (SCHED_BATCH); an idle core takes it over. For a client's threads
// in a trainer's process. Never fails: where the system does not let it, nothing changes.
void StepAside();

}  // namespace siftd
