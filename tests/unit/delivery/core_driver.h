// SPDX-License-Identifier: Apache-2.0
// Drives one client core by hand: the test plays the workers.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/delivery/client_links.h"

namespace siftd {

template <typename Core, typename Actions>
class CoreDriver {
 public:
  explicit CoreDriver(Core& core) : core_(core) {}

  // Takes the core's actions into the queues below.
  void Collect() {
    Actions actions = core_.TakeActions();
    for (const std::size_t w : actions.reconnect) {
      ++reconnects[w];
      sent[w].clear();
    }
    for (ClientSend& send : actions.sends) {
      if (const auto* hello = std::get_if<Hello>(&send.message))
        session[send.worker] = hello->session;
      sent[send.worker].push_back(std::move(send.message));
    }
    for (std::string& line : actions.log) log.push_back(std::move(line));
    last = std::move(actions);
  }

  // The next message of type T to worker w; others before it are dropped.
  template <typename T>
  std::optional<T> Next(std::size_t w) {
    auto& queue = sent[w];
    while (!queue.empty()) {
      Message message = std::move(queue.front());
      queue.pop_front();
      if (auto* m = std::get_if<T>(&message)) return std::move(*m);
    }
    return std::nullopt;
  }

  template <typename T>
  void Say(std::size_t w, T message) {
    message.session = session[w];
    core_.OnMessage(w, Message(std::move(message)), now);
    Collect();
  }

  void Open(std::size_t w, std::uint64_t incarnation = 1, std::uint64_t run = 0) {
    Collect();
    Welcome welcome;
    welcome.worker_incarnation = incarnation;
    welcome.heartbeat_ms = 1000;
    welcome.liveness_ms = 5000;
    welcome.max_batch_bytes = 1 << 20;
    welcome.run = run;
    Say(w, welcome);
  }

  void Tick(Duration d) {
    now += d;
    core_.OnTick(now);
    Collect();
  }

  // Loses the link, waits for the next Hello and welcomes it.
  void Reopen(std::size_t w, std::uint64_t incarnation) {
    core_.OnLinkLost(w, "cut", now);
    Tick(milliseconds(500));
    Open(w, incarnation);
  }

  MonoTime now{};
  std::map<std::size_t, std::deque<Message>> sent;
  std::map<std::size_t, SessionId> session;
  std::map<std::size_t, int> reconnects;
  std::vector<std::string> log;
  Actions last;

 private:
  Core& core_;
};

}  // namespace siftd
