// SPDX-License-Identifier: Apache-2.0
// ClientLinks: a client core's sessions to all of its workers, and what is to be sent over them.
// Greets, answers refusals, keeps sessions alive; the core on top gives the contents through
// ClientLinks::Owner. One thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "pipeline/delivery/client_session.h"

namespace siftd {

struct ClientSend {
  std::size_t worker = 0;
  Message message;
};

class ClientLinks {
 public:
  class Owner {
   public:
    virtual ~Owner() = default;
    // session is filled in by the caller.
    virtual Hello MakeHello() = 0;
    virtual Heartbeat MakeHeartbeat(MonoTime now) = 0;
    virtual void OnOpened(std::size_t w, const Welcome& welcome, MonoTime now) = 0;
    // The session in force is over; nothing more is sent in it.
    virtual void OnLost(std::size_t w, MonoTime now) = 0;
    // A message of the session in force other than Welcome, Error and Heartbeat. It may be moved
    // from.
    virtual void OnSessionMessage(std::size_t w, Message& message, MonoTime now) = 0;
  };

  ClientLinks(Owner* owner, std::uint64_t incarnation, Duration hello_deadline);

  std::size_t Add(MonoTime now);
  void Name(std::size_t w, std::string name) { links_[w].name = std::move(name); }
  void OnMessage(std::size_t w, Message& message, MonoTime now);
  void Lose(std::size_t w, const std::string& why, MonoTime now);
  // No connection comes about, and why. `for_good`: the worker's word. Where every worker has said
  // so, and none ever welcomed this process, nothing more will happen.
  void Refused(std::size_t w, const std::string& why, bool for_good, MonoTime now);
  // The socket does not take a message: nobody is connected yet, or its queue is full.
  void NotSent(std::size_t w, MonoTime now);
  // Deadlines, heartbeats, Hellos that are due.
  void OnTick(MonoTime now);
  // session is filled in. REQUIRES: open(w)
  void Send(std::size_t w, Message message, MonoTime now);
  // Goodbye to all, and no further Hello.
  void Leave(GoodbyeReason reason, std::uint64_t run, MonoTime now);
  void Log(std::string line) { log_.push_back(std::move(line)); }

  std::size_t size() const { return links_.size(); }
  bool open(std::size_t w) const { return links_[w].session->open(); }
  const ClientSession& session(std::size_t w) const { return *links_[w].session; }
  const std::string& name(std::size_t w) const { return links_[w].name; }
  std::size_t connected() const;
  // "worker tcp://...: no Welcome since 3.1 s", of those that are not in force; empty when all are.
  std::string Missing(MonoTime now) const;
  bool failed() const { return !failure_.ok(); }
  const Status& failure() const { return failure_; }

  std::vector<std::size_t> TakeReconnects();
  std::vector<ClientSend> TakeSends();
  std::vector<std::string> TakeLog();

 private:
  struct Link {
    std::unique_ptr<ClientSession> session;
    std::string name;
    std::string refused;  // why no connection came about since the last Welcome
    bool refused_for_good = false;
  };

  void GiveUp(std::size_t w, bool was_open, const std::string& why, MonoTime now);
  void GreetIfDue(std::size_t w, MonoTime now);

  Owner* owner_;
  std::unique_ptr<ClientIdentity> identity_;  // the sessions point to it
  Duration hello_deadline_;
  std::vector<Link> links_;
  bool leaving_ = false;
  Status failure_;
  std::vector<std::size_t> reconnects_;
  std::vector<ClientSend> sends_;
  std::vector<std::string> log_;
};

}  // namespace siftd
