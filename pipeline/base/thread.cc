// SPDX-License-Identifier: Apache-2.0
#include "pipeline/base/thread.h"

#include <pthread.h>
#include <sched.h>

#include <utility>

namespace siftd {

Thread::Thread(const std::string& name, std::function<void()> body)
    : thread_([name = name.substr(0, 15), body = std::move(body)] {
        pthread_setname_np(pthread_self(), name.c_str());
        body();
      }) {}

void StepAside() {
  const sched_param none{};
  static_cast<void>(pthread_setschedparam(pthread_self(), SCHED_BATCH, &none));
}

}  // namespace siftd
