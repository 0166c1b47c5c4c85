// SPDX-License-Identifier: Apache-2.0
// Shows ThreadSanitizer what Debian's oneTBB, which is not instrumented, hides from it: a task goes
// from the thread that submits it to the one that runs it, memory from who gave it back to who gets
// it, and whoever waited comes after what he waited for. Linked into test programs, these take the
// place of oneTBB's functions for the calls of its headers. Nothing else is said to be in order.
#include <oneapi/tbb/flow_graph.h>
#include <sanitizer/tsan_interface.h>

#include "tests/sanitize/next_symbol.h"

namespace tbb::detail {
namespace {

class SeenTask : public d1::task {
 public:
  explicit SeenTask(d1::task& inner) : inner_(inner) {}
  d1::task* execute(d1::execution_data& data) override {
    __tsan_acquire(this);
    d1::task* const next = inner_.execute(data);
    delete this;
    return next;
  }
  d1::task* cancel(d1::execution_data& data) override {
    __tsan_acquire(this);
    d1::task* const next = inner_.cancel(data);
    delete this;
    return next;
  }

 private:
  d1::task& inner_;
};

class SeenDelegate : public d1::delegate_base {
 public:
  explicit SeenDelegate(d1::delegate_base& inner) : inner_(inner) {}
  bool operator()() const override {
    auto* self = const_cast<SeenDelegate*>(this);
    __tsan_acquire(self);
    const bool result = inner_();
    __tsan_release(self);
    return result;
  }

 private:
  d1::delegate_base& inner_;
};

}  // namespace

namespace r1 {

void submit(d1::task& task, d1::task_group_context& context, arena* where,
            std::uintptr_t critical) {
  using Submit = void(d1::task&, d1::task_group_context&, arena*, std::uintptr_t);
  static auto* const real = siftd::NextSymbol<Submit>(
      "_ZN3tbb6detail2r16submitERNS0_2d14taskERNS2_18task_group_contextEPNS1_5arenaEm");
  auto* seen = new SeenTask(task);
  __tsan_release(seen);
  real(*seen, context, where, critical);
}

void execute(d1::task_arena_base& where, d1::delegate_base& delegate) {
  using Execute = void(d1::task_arena_base&, d1::delegate_base&);
  static auto* const real = siftd::NextSymbol<Execute>(
      "_ZN3tbb6detail2r17executeERNS0_2d115task_arena_baseERNS2_13delegate_baseE");
  SeenDelegate seen(delegate);
  __tsan_release(&seen);
  real(where, seen);
  __tsan_acquire(&seen);
}

void wait(d1::wait_context& until, d1::task_group_context& context) {
  using Wait = void(d1::wait_context&, d1::task_group_context&);
  static auto* const real = siftd::NextSymbol<Wait>(
      "_ZN3tbb6detail2r14waitERNS0_2d112wait_contextERNS2_18task_group_contextE");
  real(until, context);
  // Its count, an atomic that headers count down, is its second member.
  __tsan_acquire(reinterpret_cast<char*>(&until) + sizeof(std::uint64_t));
}

void* allocate(d1::small_object_pool*& pool, std::size_t bytes) {
  using Allocate = void*(d1::small_object_pool*&, std::size_t);
  static auto* const real =
      siftd::NextSymbol<Allocate>("_ZN3tbb6detail2r18allocateERPNS0_2d117small_object_poolEm");
  void* const memory = real(pool, bytes);
  __tsan_acquire(memory);
  return memory;
}

void deallocate(d1::small_object_pool& pool, void* memory, std::size_t bytes,
                const d1::execution_data& data) {
  using Deallocate = void(d1::small_object_pool&, void*, std::size_t, const d1::execution_data&);
  static auto* const real = siftd::NextSymbol<Deallocate>(
      "_ZN3tbb6detail2r110deallocateERNS0_2d117small_object_poolEPvmRKNS2_14execution_dataE");
  __tsan_release(memory);
  real(pool, memory, bytes, data);
}

}  // namespace r1
}  // namespace tbb::detail
