// SPDX-License-Identifier: Apache-2.0
// ClientSession: the connecting side of one session (design rule 1): Hello, Welcome, in force,
// lost, Hello again. ClientIdentity: what the sessions of one process share. One thread only. Pure:
// never touches a socket or a clock.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>

#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"

namespace siftd {

struct ClientIdentity {
  std::uint64_t incarnation = 0;
  bool welcomed = false;  // by any worker
};

class ClientSession {
 public:
  enum class State { kWaiting, kGreeting, kOpen, kFailed };

  // The first Hello is due at once, on the socket that is open already.
  ClientSession(ClientIdentity* identity, Duration hello_deadline, std::uint64_t seed);

  struct Greeting {
    SessionId id;
    bool reopen = false;  // close the socket and open a new one first
  };
  // When a Hello is due: the session that it opens.
  std::optional<Greeting> Greet(MonoTime now);

  // True: the message belongs to the session in force, whose peer was thereby heard.
  bool Heard(const SessionId& id, MonoTime now);
  // True: the session is in force now.
  bool OnWelcome(const Welcome& welcome, MonoTime now);
  enum class Effect { kNone, kLost, kFailed };
  Effect OnError(const ErrorMessage& error, MonoTime now);
  // The Hello found no connection: it is said again shortly, on the same socket, which goes on
  // connecting. A new socket each time would never be connected by then.
  void NotSent(MonoTime now);
  // Back off, then greet anew.
  void Lose(MonoTime now);
  // Why the session should be given up now: no Welcome, or silence. Empty: it should not.
  std::string Expired(MonoTime now) const;

  bool HeartbeatDue(MonoTime now) const;
  void Sent(MonoTime now) { sent_ = now; }

  State state() const { return state_; }
  bool open() const { return state_ == State::kOpen; }
  const SessionId& id() const { return id_; }
  // REQUIRES: a Welcome has come; the last one.
  const Welcome& welcome() const { return welcome_; }
  Duration heartbeat() const { return milliseconds(welcome_.heartbeat_ms); }
  const Status& failure() const { return failure_; }
  // When the peer last said anything in the session in force.
  MonoTime heard() const { return heard_; }
  // Since when no session is in force. REQUIRES: !open()
  MonoTime down_since() const { return down_since_; }

 private:
  void Enter(State state, MonoTime now);

  ClientIdentity* identity_;
  Duration hello_deadline_;
  std::minstd_rand jitter_;
  State state_ = State::kWaiting;
  bool greeted_ = false;
  bool greeted_unwelcomed_ = false;  // nobody had welcomed this process when the Hello went out
  int attempts_ = 0;                 // since the last Welcome
  SessionId id_;
  Welcome welcome_;
  MonoTime since_{};  // of the state
  MonoTime down_since_{};
  MonoTime next_greeting_ = MonoTime::min();
  MonoTime heard_{};
  MonoTime sent_{};
  Status failure_;
};

}  // namespace siftd
