// SPDX-License-Identifier: Apache-2.0
#include "pipeline/base/fault_point.h"

#ifdef SIFTD_FAULT_POINTS

#include <unistd.h>

#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace siftd::fault {
namespace {

struct Plan {
  std::string point;  // empty: none
  long passage = 0;
  int signal = 0;
};

Plan ReadPlan() {
  const char* text = std::getenv("SIFTD_FAULT");
  if (text == nullptr || *text == '\0') return {};
  const std::string_view all = text;
  const std::size_t first = all.find(':');
  const std::size_t last = all.rfind(':');
  Plan plan;
  if (first != std::string_view::npos && first < last) {
    plan.point = all.substr(0, first);
    std::from_chars(text + first + 1, text + last, plan.passage);
    const std::string_view how = all.substr(last + 1);
    plan.signal = how == "kill" ? SIGKILL : how == "stop" ? SIGSTOP : 0;
  }
  if (plan.point.empty() || plan.passage < 1 || plan.signal == 0) {
    std::fprintf(stderr,
                 "SIFTD_FAULT is '%s'; allowed: POINT:PASSAGE:kill or POINT:PASSAGE:stop, as in "
                 "emit:3:kill\n",
                 text);
    std::_Exit(2);
  }
  return plan;
}

const Plan& ThePlan() {
  static const Plan plan = ReadPlan();
  return plan;
}

}  // namespace

const bool kArmed = !ThePlan().point.empty();

void Pass(const char* point) {
  static std::atomic<long> passages{0};
  const Plan& plan = ThePlan();
  if (plan.point != point || passages.fetch_add(1) + 1 != plan.passage) return;
  std::fprintf(stderr, "fault point %s, passage %ld: signal %d\n", point, plan.passage,
               plan.signal);
  kill(getpid(), plan.signal);
}

}  // namespace siftd::fault

#endif
