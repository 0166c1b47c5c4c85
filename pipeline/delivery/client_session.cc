// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/client_session.h"

#include <algorithm>

namespace siftd {
namespace {

constexpr double kFirstBackoffSeconds = 0.1;
constexpr double kLastBackoffSeconds = 5.0;
constexpr Duration kGreetAgain = milliseconds(50);  // while the socket connects

Code CodeOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kProtocolVersion:
    case ErrorCode::kTooLarge:
      return Code::kInvalidArgument;
    case ErrorCode::kBudgetTooSmall:
      return Code::kResourceExhausted;
    default:
      return Code::kFailedPrecondition;
  }
}

// Refusals that another Hello would not change.
bool Final(const ErrorMessage& error) {
  switch (error.code) {
    case ErrorCode::kProtocolVersion:
    case ErrorCode::kNotAllowed:  // this key, in this role
    case ErrorCode::kJobMismatch:
    case ErrorCode::kRunObsolete:
    case ErrorCode::kTooLarge:
    case ErrorCode::kBudgetTooSmall:
      return error.fatal;
    default:
      return false;
  }
}

}  // namespace

ClientSession::ClientSession(ClientIdentity* identity, Duration hello_deadline, std::uint64_t seed)
    : identity_(identity),
      hello_deadline_(hello_deadline),
      jitter_(static_cast<std::minstd_rand::result_type>(seed ^ (seed >> 32))) {}

void ClientSession::Enter(State state, MonoTime now) {
  if (state_ == State::kOpen || id_.counter == 0) down_since_ = now;
  state_ = state;
  since_ = now;
}

std::optional<ClientSession::Greeting> ClientSession::Greet(MonoTime now) {
  if (state_ != State::kWaiting || now < next_greeting_) return std::nullopt;
  const bool reopen = greeted_;
  greeted_ = true;
  greeted_unwelcomed_ = !identity_->welcomed;
  sent_ = now;
  Enter(State::kGreeting, now);
  id_ = {identity_->incarnation, id_.counter + 1};
  return Greeting{id_, reopen};
}

void ClientSession::NotSent(MonoTime now) {
  if (state_ != State::kGreeting) return;
  greeted_ = false;
  next_greeting_ = now + kGreetAgain;
  Enter(State::kWaiting, now);
}

bool ClientSession::Heard(const SessionId& id, MonoTime now) {
  if (state_ != State::kOpen || id != id_) return false;
  heard_ = now;
  return true;
}

bool ClientSession::OnWelcome(const Welcome& welcome, MonoTime now) {
  if (state_ != State::kGreeting || welcome.session != id_) return false;
  welcome_ = welcome;
  welcome_.heartbeat_ms = std::clamp(welcome.heartbeat_ms, 10u, 60000u);
  welcome_.liveness_ms = std::clamp(welcome.liveness_ms, 2 * welcome_.heartbeat_ms, 600000u);
  identity_->welcomed = true;
  attempts_ = 0;
  heard_ = now;
  Enter(State::kOpen, now);
  return true;
}

ClientSession::Effect ClientSession::OnError(const ErrorMessage& error, MonoTime now) {
  const bool active = state_ == State::kGreeting || state_ == State::kOpen;
  if (!active || (error.session && error.session != id_)) return Effect::kNone;
  const bool superseded = error.code == ErrorCode::kSuperseded;
  if (superseded && state_ == State::kGreeting && greeted_unwelcomed_ &&
      error.current < kMaxIncarnation) {
    // A clock may have gone back since the process that had this index.
    identity_->incarnation = std::max(identity_->incarnation, error.current + 1);
    next_greeting_ = now;
    Enter(State::kWaiting, now);
    return Effect::kLost;
  }
  if (superseded || Final(error)) {
    failure_ =
        Status(CodeOf(error.code), error.text + (error.hint.empty() ? "" : "; " + error.hint));
    Enter(State::kFailed, now);
    return Effect::kFailed;
  }
  if (error.code == ErrorCode::kHelloRequired || error.fatal || state_ == State::kGreeting) {
    Lose(now);
    return Effect::kLost;
  }
  return Effect::kNone;
}

void ClientSession::Lose(MonoTime now) {
  if (state_ == State::kFailed) return;
  const double cap = std::min(
      kLastBackoffSeconds, kFirstBackoffSeconds * static_cast<double>(1 << std::min(attempts_, 6)));
  ++attempts_;
  const double wait = std::clamp(cap * std::uniform_real_distribution<>(0.75, 1.5)(jitter_),
                                 kFirstBackoffSeconds, kLastBackoffSeconds);
  next_greeting_ = now + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(wait));
  Enter(State::kWaiting, now);
}

std::string ClientSession::Expired(MonoTime now) const {
  if (state_ == State::kGreeting && now - since_ > hello_deadline_) return "no answer to Hello";
  if (state_ == State::kOpen && now - heard_ > milliseconds(welcome_.liveness_ms))
    return "silent for too long";
  return "";
}

bool ClientSession::HeartbeatDue(MonoTime now) const {
  return state_ == State::kOpen && now - sent_ >= heartbeat();
}

}  // namespace siftd
