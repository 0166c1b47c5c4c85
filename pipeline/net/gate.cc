// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/gate.h"

#include <array>
#include <cerrno>
#include <utility>
#include <vector>

namespace siftd::net {
namespace {

constexpr char kDomain[] = "siftd";  // must not be empty: libzmq would ask nobody
constexpr auto kLookEvery = std::chrono::milliseconds(500);
constexpr Duration kTellEvery = std::chrono::seconds(1);

// The parts of one request: version, id, domain, address, routing id, mechanism, credentials.
std::vector<std::string> ReceiveParts(zmq::socket_t& socket) {
  std::vector<std::string> parts;
  zmq::message_t part;
  do {
    if (!socket.recv(part, zmq::recv_flags::dontwait)) break;
    parts.emplace_back(part.to_string());
  } while (part.more());
  return parts;
}

}  // namespace

Gate::Gate(zmq::context_t& context, std::unique_ptr<KeyRing> ring, double handshakes,
           std::function<void(const std::string&)> log)
    : context_(context),
      ring_(std::move(ring)),
      log_(std::move(log)),
      asked_(context, zmq::socket_type::rep),
      handshakes_(handshakes) {
  asked_.set(zmq::sockopt::linger, 0);
  asked_.bind("inproc://zeromq.zap.01");
}

Gate::~Gate() { Stop(); }

void Gate::Guard(zmq::socket_t& router, const CurveKeys& own) {
  router.set(zmq::sockopt::curve_server, true);
  router.set(zmq::sockopt::curve_secretkey, own.secret_key);
  router.set(zmq::sockopt::zap_domain, kDomain);
  // Without the gate nobody gets in. Every libzmq from 4.3 on has it; the header hides its number.
  constexpr int kZapEnforceDomain = 93;
  const int yes = 1;
  if (zmq_setsockopt(router.handle(), kZapEnforceDomain, &yes, sizeof(yes)) != 0)
    throw zmq::error_t();
  watch_.emplace(context_, router, 0);
  thread_ = Thread("siftd-gate", [this] { Run(); });
}

void Gate::Stop() {
  stopping_ = true;
  wakeup_.Wake();
  thread_.Join();
  watch_.reset();
}

void Gate::Run() {
  while (!stopping_) {
    std::array<zmq::pollitem_t, 3> items{{{asked_.handle(), 0, ZMQ_POLLIN, 0},
                                          {watch_->socket().handle(), 0, ZMQ_POLLIN, 0},
                                          {nullptr, wakeup_.fd(), ZMQ_POLLIN, 0}}};
    try {
      zmq::poll(items.data(), items.size(), kLookEvery);
      Answer();
      while (const auto outcome = watch_->Next()) {
        // Who notices first that the other side does not encrypt closes the connection.
        if (*outcome == HandshakeWatch::Outcome::kEnded)
          TurnAway("a connection ended in its handshake; does the peer use keys?");
        if (*outcome == HandshakeWatch::Outcome::kOtherMechanism)
          TurnAway("a peer does not encrypt");
        if (*outcome == HandshakeWatch::Outcome::kBroken)
          TurnAway(
              "a peer's handshake is none, or takes this worker for another one (its worker.key)");
      }
      if (Now() - looked_ >= kLookEvery) Look();
    } catch (const zmq::error_t& e) {
      if (e.num() != EINTR) return Tell(std::string("the gate is shut for good: ") + e.what());
    }
  }
}

void Gate::Answer() {
  while (true) {
    const std::vector<std::string> request = ReceiveParts(asked_);
    if (request.empty()) return;
    std::string status = "400";
    std::string why = "no CURVE key";
    char key[41] = "";
    constexpr std::size_t kCredentials = 6;
    if (request.size() > kCredentials && request[5] == "CURVE" &&
        request[kCredentials].size() == 32) {
      zmq_z85_encode(key, reinterpret_cast<const std::uint8_t*>(request[kCredentials].data()), 32);
      status = Judge(key, request[3], &why);
    }
    const bool in = status == "200";
    if (!in) TurnAway(why);
    const std::array<std::string, 6> reply{"1.0",         request.size() > 1 ? request[1] : "",
                                           status,        in ? "" : "refused",
                                           in ? key : "", ""};
    for (std::size_t i = 0; i < reply.size(); ++i) {
      asked_.send(zmq::buffer(reply[i]),
                  i + 1 < reply.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }
}

std::string Gate::Judge(const std::string& key, const std::string& address, std::string* why) {
  if (!ring_->table()->contains(key)) Look();  // it may have been put there just now
  const auto table = ring_->table();
  const auto holder = table->find(key);
  if (holder == table->end()) {
    *why = "key " + key + " from " + (address.empty() ? "this host" : address) +
           " is in no folder of " + ring_->folder();
    return "400";
  }
  if (!handshakes_.Take(key, Now())) {
    *why = "key '" + holder->second.name + "' connects too often; it may try again in a while";
    return "300";
  }
  return "200";
}

void Gate::Look() {
  looked_ = Now();
  std::vector<std::string> problems;
  if (!ring_->Refresh(&problems)) return;
  Tell("client keys read again from " + ring_->folder() + ": " +
       std::to_string(ring_->table()->size()) + " may connect");
  for (const std::string& problem : problems) Tell(problem + "; until then it counts as not there");
}

// Not a line for each: who knocks all day must not fill the disk.
void Gate::TurnAway(const std::string& why) {
  ++refused_;
  const MonoTime now = Now();
  if (told_ != MonoTime{} && now - told_ < kTellEvery) {
    ++untold_;
    return;
  }
  told_ = now;
  const std::uint64_t more = std::exchange(untold_, 0);
  Tell("connection refused: " + why +
       (more == 0 ? "" : " (and " + std::to_string(more) + " others since the last such line)"));
}

void Gate::Tell(const std::string& line) {
  if (log_) log_(line);
}

}  // namespace siftd::net
