// SPDX-License-Identifier: Apache-2.0
// Door: what an I/O thread leaves for the training loop's thread. Its mutex is held for a moment
// only, never while rows are copied, so that the loop waits for nothing but batches.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/data/batch_key.h"
#include "pipeline/delivery/assembler.h"

namespace siftd {

// How many rows of a decided key come in batches.
struct Post {
  BatchKey key;
  std::uint32_t kept = 0;
};

struct Taken {
  std::optional<Assembler::Item> item;  // a batch or, without one, the end of a pass or epoch
  std::vector<Post> posts;              // keys decided since the last call
  std::vector<std::string> log;
  std::vector<std::string> warnings;
  std::string error;  // rows that can't stand in one batch; nothing more will come
};

struct Door {
  mutable std::mutex mu;
  std::condition_variable item;
  std::deque<Assembler::Item> ready;
  std::vector<Post> posts;
  std::vector<std::string> log;
  std::vector<std::string> warnings;
  std::string error;
  bool waited = false;  // the loop did, and has not found a full house since

  // The training loop's side. `wake`: the I/O thread is to be woken for more. That costs the loop a
  // system call: while half of `most` items are ready and the loop never waited since there were
  // that many, more will come in time by themselves.
  Taken Take(std::size_t most, bool* wake) {
    const std::lock_guard lock(mu);
    Taken taken;
    taken.posts = std::exchange(posts, {});
    taken.log = std::exchange(log, {});
    taken.warnings = std::exchange(warnings, {});
    if (ready.empty()) {
      taken.error = error;
    } else {
      taken.item = std::move(ready.front());
      ready.pop_front();
    }
    if (ready.size() + 1 >= most) waited = false;
    *wake = taken.item && (waited || 2 * ready.size() < most);
    return taken;
  }

  void Wait(Duration timeout) {
    std::unique_lock lock(mu);
    const auto there = [this] { return !ready.empty() || !error.empty(); };
    if (there()) return;
    waited = true;
    item.wait_for(lock, timeout, there);
  }

  // The I/O thread's side.
  std::size_t ready_items() const {
    const std::lock_guard lock(mu);
    return ready.size();
  }

  // Batches of `assembled` until `most` are ready, and the posts, which come no later than their
  // rows.
  template <typename Take>
  void Fill(std::size_t most, std::vector<Post> news, const Take& take) {
    std::deque<Assembler::Item> made;
    for (std::size_t room = ready_items(); room < most; ++room) {
      auto next = take();
      if (!next) break;
      made.push_back(std::move(*next));
    }
    if (made.empty() && news.empty()) return;
    const std::lock_guard lock(mu);
    posts.insert(posts.end(), news.begin(), news.end());
    for (Assembler::Item& next : made) ready.push_back(std::move(next));
    if (!made.empty()) item.notify_one();
  }

  void Fail(const std::string& why) {
    const std::lock_guard lock(mu);
    if (error.empty()) error = why;
    item.notify_one();
  }

  void Log(const std::string& line) {
    const std::lock_guard lock(mu);
    log.push_back(line);
  }

  void Warn(const std::string& line) {
    const std::lock_guard lock(mu);
    warnings.push_back(line);
  }
};

}  // namespace siftd
