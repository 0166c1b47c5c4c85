// SPDX-License-Identifier: Apache-2.0
// Who may say Hello as what, how often, and how many there may be; who breaks the rules is cut.
#include <algorithm>
#include <utility>

#include "pipeline/delivery/worker_core_impl.h"

namespace siftd {
namespace {

constexpr std::size_t kStrangersMost = 4096;  // connections without a session that are remembered

std::string Who(PeerHandle peer, const PeerRights& rights) {
  std::string text = "connection " + std::to_string(peer);
  if (!rights.key.empty()) return text + " of key '" + rights.key + "'";
  return rights.origin.empty() ? text : text + " from " + rights.origin;
}

}  // namespace

WorkerPeer& WorkerCore::Impl::Know(PeerHandle peer) {
  const auto [it, fresh] = peers.try_emplace(peer);
  if (!fresh) return it->second;
  if (options.keys) it->second.rights.roles = 0;
  if (peers.size() > sessions.size() + kStrangersMost) {
    const auto stranger = std::find_if(peers.begin(), peers.end(), [&](const auto& p) {
      return p.first != peer && !seat_of.contains(p.first);
    });
    if (stranger != peers.end()) {
      actions.forget.push_back(stranger->first);
      peers.erase(stranger);
    }
  }
  return it->second;
}

void WorkerCore::OnPeer(PeerHandle peer, PeerRights rights, MonoTime now) {
  Impl& m = *impl_;
  WorkerPeer& known = m.Know(peer);
  const PeerRights before = std::exchange(known.rights, std::move(rights));
  const auto seat = m.seat_of.find(peer);
  if (seat == m.seat_of.end() || known.rights.Allows(seat->second.role)) return;
  const Seat held = seat->second;
  m.Refuse(
      peer, m.sessions.at(held).id, ErrorCode::kNotAllowed,
      std::string("the key of this connection may not be a ") + RoleName(held.role) + " any more",
      "connect with a key that lies in that role's folder of the worker's client_keys", true);
  m.actions.log.push_back(Who(peer, before) + " is no " + RoleName(held.role) +
                          " any more: its key was taken away");
  m.EndSession(held, now, "its key was taken away");
  m.actions.cut.push_back(peer);
}

bool WorkerCore::Impl::CheckDoor(PeerHandle from, const Hello& hello, MonoTime now) {
  const PeerRights rights = Know(from).rights;
  if (!rights.origin.empty() && !hellos.Take(rights.origin, now)) {
    Refuse(from, hello.session, ErrorCode::kNotAllowed,
           "too many Hellos from one key or address; allowed: max_hellos, " +
               std::to_string(options.max_hellos) + " a second",
           "wait some seconds before the next connection", false);
    return false;
  }
  if (rights.Allows(hello.role)) return true;
  const std::string text = "role is " + std::string(RoleName(hello.role)) + "; allowed for key '" +
                           rights.key + "': " + RoleNames(rights.roles);
  Refuse(
      from, hello.session, ErrorCode::kNotAllowed, text,
      "use a key of that role, or put this one's .key file into that role's folder of the worker's "
      "client_keys",
      true);
  actions.log.push_back(Who(from, rights) + " refused: " + text);
  Breach(from, text, now);
  return false;
}

bool WorkerCore::Impl::CheckRoom(PeerHandle from, const Hello& hello, const Seat& seat) {
  if (sessions.contains(seat) || seat_of.contains(from)) return true;  // a place of its own
  const auto monitors =
      static_cast<std::size_t>(std::count_if(sessions.begin(), sessions.end(), [](const auto& s) {
        return s.first.role == Role::kMonitor;
      }));
  const bool monitor = hello.role == Role::kMonitor;
  const std::size_t most = monitor ? std::max(1u, options.max_peers / 4) : options.max_peers;
  const std::size_t there = monitor ? monitors : sessions.size() - monitors;
  if (there < most) return true;
  Refuse(from, hello.session, ErrorCode::kNotAllowed,
         std::to_string(there) + (monitor ? " monitors" : " peers") +
             " are connected; allowed: " + std::to_string(most) + " (max_peers)",
         "use other workers, or raise the worker's max_peers", false);
  return false;
}

void WorkerCore::Impl::Breach(PeerHandle peer, const std::string& what, MonoTime now) {
  if (++Know(peer).breaches >= options.max_breaches) Cut(peer, what, now);
}

void WorkerCore::Impl::Cut(PeerHandle peer, const std::string& what, MonoTime now) {
  const WorkerPeer known = Know(peer);
  ++counters.errors["PEER_CUT"];
  actions.log.push_back(Who(peer, known.rights) + " cut, breaches of the rules: " +
                        std::to_string(std::max(1u, known.breaches)) + "; the last: " + what);
  if (const auto seat = seat_of.find(peer); seat != seat_of.end())
    EndSession(Seat(seat->second), now, "it broke the rules");
  Leave(peer);
  actions.cut.push_back(peer);
}

}  // namespace siftd
