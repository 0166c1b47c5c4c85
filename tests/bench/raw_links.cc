// SPDX-License-Identifier: Apache-2.0
#include "raw_links.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>
#include <zmq.hpp>

namespace siftd::bench {
namespace {

constexpr int kSlots = 8;

void UseKeys(zmq::socket_t& server, zmq::socket_t& client) {
  char server_public[41], server_secret[41], client_public[41], client_secret[41];
  if (zmq_curve_keypair(server_public, server_secret) != 0 ||
      zmq_curve_keypair(client_public, client_secret) != 0) {
    throw std::runtime_error("this libzmq has no CURVE");
  }
  server.set(zmq::sockopt::curve_server, true);
  server.set(zmq::sockopt::curve_secretkey, server_secret);
  client.set(zmq::sockopt::curve_serverkey, server_public);
  client.set(zmq::sockopt::curve_publickey, client_public);
  client.set(zmq::sockopt::curve_secretkey, client_secret);
}

// One message over a Unix socket: a slot's number, and at the start the ring's descriptor.
void SendSlot(int to, std::int32_t slot, int fd = -1) {
  iovec data{&slot, sizeof(slot)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(c), &fd, sizeof(fd));
  }
  if (sendmsg(to, &header, 0) != sizeof(slot)) throw std::runtime_error("sendmsg");
}

std::int32_t ReceiveSlot(int from, int* fd = nullptr) {
  std::int32_t slot = -1;
  iovec data{&slot, sizeof(slot)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  if (recvmsg(from, &header, 0) != sizeof(slot)) throw std::runtime_error("recvmsg");
  if (fd != nullptr) std::memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof(*fd));
  return slot;
}

std::uint8_t* Map(int fd, std::size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) throw std::runtime_error("mmap");
  return static_cast<std::uint8_t*>(at);
}

}  // namespace

LinkRate RunRaw(RawPattern pattern, const std::string& endpoint, const LinkLoad& load) {
  const bool router = pattern == RawPattern::kDealerRouter;
  zmq::context_t receiving{1};
  zmq::context_t sending{1};
  zmq::socket_t to(receiving, router ? zmq::socket_type::router : zmq::socket_type::pull);
  zmq::socket_t from(sending, router ? zmq::socket_type::dealer : zmq::socket_type::push);
  to.set(zmq::sockopt::rcvhwm, load.queue());
  from.set(zmq::sockopt::sndhwm, load.queue());
  if (pattern == RawPattern::kPushPullCurve) UseKeys(to, from);
  to.bind(endpoint);
  from.connect(to.get(zmq::sockopt::last_endpoint));

  std::vector<std::uint8_t> payload(load.bytes, 1);
  std::thread sender([&] {
    for (std::size_t i = 0; i < load.messages; ++i) {
      zmq::message_t part(payload.data(), payload.size(), [](void*, void*) {});
      from.send(part, zmq::send_flags::none);
    }
  });
  LinkClock clock(load);
  zmq::message_t part;
  do {
    do {
      (void)to.recv(part);
    } while (part.more());
  } while (clock.Received());
  sender.join();
  return clock.rate();
}

LinkRate RunMemfd(const LinkLoad& load) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) throw std::runtime_error("socketpair");
  const std::size_t ring_bytes = kSlots * load.bytes;

  std::thread sender([&] {
    const std::vector<std::uint8_t> payload(load.bytes, 1);
    const int fd = memfd_create("siftd-bench", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(ring_bytes)) != 0) std::abort();
    std::uint8_t* ring = Map(fd, ring_bytes);
    SendSlot(ends[0], -1, fd);
    for (std::size_t i = 0; i < load.messages; ++i) {
      const std::size_t slot = i < kSlots ? i : static_cast<std::size_t>(ReceiveSlot(ends[0]));
      std::memcpy(ring + slot * load.bytes, payload.data(), load.bytes);
      SendSlot(ends[0], static_cast<std::int32_t>(slot));
    }
    for (std::size_t i = 0; i < std::min<std::size_t>(kSlots, load.messages); ++i)
      (void)ReceiveSlot(ends[0]);
    munmap(ring, ring_bytes);
    close(fd);
  });

  int fd = -1;
  (void)ReceiveSlot(ends[1], &fd);
  std::uint8_t* ring = Map(fd, ring_bytes);
  LinkClock clock(load);
  std::uint64_t sum = 0;
  bool more = true;
  while (more) {
    const auto slot = static_cast<std::size_t>(ReceiveSlot(ends[1]));
    sum += ring[slot * load.bytes];
    more = clock.Received();
    SendSlot(ends[1], static_cast<std::int32_t>(slot));
  }
  sender.join();
  munmap(ring, ring_bytes);
  close(fd);
  for (const int end : ends) close(end);
  if (sum != load.messages) throw std::runtime_error("bytes were lost");
  return clock.rate();
}

}  // namespace siftd::bench
