// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/client_links.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace siftd {
namespace {

std::string ElapsedText(Duration d) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f s", Seconds(d));
  return text;
}

}  // namespace

ClientLinks::ClientLinks(Owner* owner, std::uint64_t incarnation, Duration hello_deadline)
    : owner_(owner),
      identity_(std::make_unique<ClientIdentity>()),
      hello_deadline_(hello_deadline) {
  identity_->incarnation = incarnation;
}

std::size_t ClientLinks::Add(MonoTime now) {
  const std::size_t w = links_.size();
  const std::uint64_t seed = identity_->incarnation * 0x9e3779b97f4a7c15ULL + w;
  links_.push_back({std::make_unique<ClientSession>(identity_.get(), hello_deadline_, seed),
                    "worker " + std::to_string(w)});
  GreetIfDue(w, now);
  return w;
}

void ClientLinks::GreetIfDue(std::size_t w, MonoTime now) {
  if (leaving_ || failed()) return;
  const auto greeting = links_[w].session->Greet(now);
  if (!greeting) return;
  if (greeting->reopen) reconnects_.push_back(w);
  Hello hello = owner_->MakeHello();
  hello.session = greeting->id;
  sends_.push_back({w, std::move(hello)});
}

void ClientLinks::OnMessage(std::size_t w, Message& message, MonoTime now) {
  if (leaving_) return;  // an answer after Goodbye would be a message of no session
  ClientSession& session = *links_[w].session;
  if (const auto* welcome = std::get_if<Welcome>(&message)) {
    if (!session.OnWelcome(*welcome, now)) return;
    links_[w].refused.clear();
    links_[w].refused_for_good = false;
    if (!welcome->worker_name.empty())
      log_.push_back(links_[w].name + " is '" + welcome->worker_name + "'");
    owner_->OnOpened(w, session.welcome(), now);
    return;
  }
  if (const auto* error = std::get_if<ErrorMessage>(&message)) {
    const bool was_open = session.open();
    const auto effect = session.OnError(*error, now);
    if (effect == ClientSession::Effect::kFailed && failure_.ok()) {
      failure_ =
          Status(session.failure().code(), links_[w].name + ": " + session.failure().message());
    }
    if (effect == ClientSession::Effect::kNone) {
      log_.push_back(links_[w].name + " says: " + error->text);
    } else {
      GiveUp(w, was_open, error->text, now);
    }
    return;
  }
  const SessionId& id =
      std::visit([](const auto& m) -> const SessionId& { return m.session; }, message);
  if (!session.Heard(id, now) || std::holds_alternative<Heartbeat>(message)) return;
  owner_->OnSessionMessage(w, message, now);
}

void ClientLinks::Lose(std::size_t w, const std::string& why, MonoTime now) {
  ClientSession& session = *links_[w].session;
  const bool was_open = session.open();
  if (!was_open && session.state() != ClientSession::State::kGreeting) return;
  session.Lose(now);
  GiveUp(w, was_open, why, now);
}

void ClientLinks::Refused(std::size_t w, const std::string& why, bool for_good, MonoTime /*now*/) {
  Link& link = links_[w];
  if (link.refused != why) log_.push_back(link.name + ": " + why);
  link.refused = why;
  link.refused_for_good = for_good;
  const bool all =
      std::all_of(links_.begin(), links_.end(), [](const Link& l) { return l.refused_for_good; });
  if (all && !identity_->welcomed && failure_.ok())
    failure_ = FailedPrecondition(link.name + ": " + why);
}

void ClientLinks::NotSent(std::size_t w, MonoTime now) {
  if (open(w)) return Lose(w, "takes no more messages", now);
  links_[w].session->NotSent(now);
}

void ClientLinks::GiveUp(std::size_t w, bool was_open, const std::string& why, MonoTime now) {
  // What was still to be sent belongs to the session that is gone.
  std::erase_if(sends_, [w](const ClientSend& s) { return s.worker == w; });
  if (was_open) log_.push_back(links_[w].name + " lost: " + why);
  if (was_open) owner_->OnLost(w, now);
  GreetIfDue(w, now);
}

void ClientLinks::OnTick(MonoTime now) {
  for (std::size_t w = 0; w < links_.size(); ++w) {
    ClientSession& session = *links_[w].session;
    if (const std::string why = session.Expired(now); !why.empty()) Lose(w, why, now);
    GreetIfDue(w, now);
    if (!leaving_ && session.HeartbeatDue(now)) Send(w, owner_->MakeHeartbeat(now), now);
  }
}

void ClientLinks::Send(std::size_t w, Message message, MonoTime now) {
  ClientSession& session = *links_[w].session;
  std::visit([&](auto& m) { m.session = session.id(); }, message);
  session.Sent(now);
  sends_.push_back({w, std::move(message)});
}

void ClientLinks::Leave(GoodbyeReason reason, std::uint64_t run, MonoTime now) {
  leaving_ = true;
  for (std::size_t w = 0; w < links_.size(); ++w) {
    if (open(w)) Send(w, Goodbye{{}, reason, run}, now);
  }
}

std::size_t ClientLinks::connected() const {
  return static_cast<std::size_t>(
      std::count_if(links_.begin(), links_.end(), [](const Link& l) { return l.session->open(); }));
}

std::string ClientLinks::Missing(MonoTime now) const {
  std::string text;
  for (const Link& link : links_) {
    if (link.session->open()) continue;
    if (!text.empty()) text += ", ";
    const bool greeting = link.session->state() == ClientSession::State::kGreeting;
    text += link.name + (greeting ? ": no Welcome since " : ": not connected since ") +
            ElapsedText(now - link.session->down_since());
    if (!link.refused.empty()) text += ": " + link.refused;
  }
  return text;
}

std::vector<std::size_t> ClientLinks::TakeReconnects() { return std::exchange(reconnects_, {}); }
std::vector<ClientSend> ClientLinks::TakeSends() { return std::exchange(sends_, {}); }
std::vector<std::string> ClientLinks::TakeLog() { return std::exchange(log_, {}); }

}  // namespace siftd
