// SPDX-License-Identifier: Apache-2.0
// The guard over plain TCP connections of this process; no ZeroMQ is needed.
#include "pipeline/net/connection_guard.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

namespace siftd::net {
namespace {

constexpr Duration kSecond = std::chrono::seconds(1);
constexpr std::uint64_t kUnfinished = 16 << 10;

class Socket {
 public:
  explicit Socket(int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) : fd_(fd) {}
  ~Socket() { close(fd_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

class ConnectionGuardTest : public testing::Test {
 protected:
  ConnectionGuardTest() {
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address_);
    EXPECT_EQ(bind(listener_.fd(), Address(), size), 0);
    EXPECT_EQ(listen(listener_.fd(), 8), 0);
    EXPECT_EQ(getsockname(listener_.fd(), Address(), &size), 0);
  }

  // The accepted end of a new connection of `client`.
  int Accept(const Socket& client) {
    EXPECT_EQ(connect(client.fd(), Address(), sizeof(address_)), 0);
    return accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC);
  }

  ConnectionGuard Guard() {
    const std::string port = std::to_string(ntohs(address_.sin_port));
    return ConnectionGuard("tcp://127.0.0.1:" + port, {kUnfinished, 10 * kSecond});
  }

  // Sends `bytes` and waits until all of them have arrived at `server`.
  static void Send(const Socket& client, int server, std::size_t bytes) {
    const std::string data(bytes, 'x');
    ASSERT_EQ(send(client.fd(), data.data(), bytes, MSG_NOSIGNAL), static_cast<ssize_t>(bytes));
    std::string got(bytes, 0);
    ASSERT_EQ(recv(server, got.data(), bytes, MSG_WAITALL), static_cast<ssize_t>(bytes));
  }

  // The other end closed it, or it was cut.
  static bool Ended(const Socket& socket) {
    pollfd ready{socket.fd(), POLLIN, 0};
    char byte = 0;
    return poll(&ready, 1, 0) == 1 && recv(socket.fd(), &byte, 1, MSG_DONTWAIT) <= 0;
  }

  sockaddr* Address() { return reinterpret_cast<sockaddr*>(&address_); }

  Socket listener_;
  sockaddr_in address_{};
  MonoTime now_ = Now();
};

TEST_F(ConnectionGuardTest, AMessageThatDoesNotEndIsCutAndOthersGoOn) {
  const Socket endless, honest;
  const Socket endless_end(Accept(endless)), honest_end(Accept(honest));
  ConnectionGuard guard = Guard();
  for (int i = 0; i < 3; ++i) {  // as many bytes, but in messages that end
    Send(endless, endless_end.fd(), kUnfinished / 2 - 100);
    Send(honest, honest_end.fd(), kUnfinished / 2 - 100);
    guard.Delivered(honest_end.fd());
    guard.Look(now_ += kSecond);
  }
  EXPECT_EQ(guard.cuts().unfinished, 1u);
  EXPECT_EQ(guard.cuts().silent, 0u);
  EXPECT_TRUE(Ended(endless));
  EXPECT_FALSE(Ended(honest));
}

// A bug once: cut by a FIN while its window was full, a sender waited for a minute.
TEST_F(ConnectionGuardTest, ASenderThatWaitsForRoomIsReset) {
  const Socket client;
  ConnectionGuard guard = Guard();
  const std::string data(1 << 16, 'x');
  {
    const Socket end(Accept(client));
    while (send(client.fd(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
    }
    guard.Look(now_ += kSecond);
    ASSERT_EQ(guard.cuts().unfinished, 1u);
    std::string got(1 << 16, 0);
    while (recv(end.fd(), got.data(), got.size(), 0) > 0) {  // as libzmq does, to the end
    }
  }
  pollfd ready{client.fd(), POLLOUT, 0};
  ASSERT_EQ(poll(&ready, 1, 10000), 1);
  EXPECT_LT(send(client.fd(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT), 0);
}

TEST_F(ConnectionGuardTest, ItLooksSoonAgainWhileAMessageGrows) {
  const Socket client;
  const Socket end(Accept(client));
  ConnectionGuard guard = Guard();
  guard.Look(now_ += kSecond);
  EXPECT_GT(guard.next_look() - now_, milliseconds(50));
  Send(client, end.fd(), kUnfinished / 2);
  guard.Look(now_ += kSecond);
  EXPECT_LT(guard.next_look() - now_, milliseconds(50));
  EXPECT_EQ(guard.cuts().unfinished, 0u);
}

TEST_F(ConnectionGuardTest, WhoNeverSaysAnythingIsCutAndWhoOnceDidIsNot) {
  const Socket mute, spoke;
  const Socket mute_end(Accept(mute)), spoke_end(Accept(spoke));
  ConnectionGuard guard = Guard();
  guard.Delivered(spoke_end.fd());
  guard.Look(now_ += kSecond);
  guard.Look(now_ += 10 * kSecond);
  EXPECT_EQ(guard.cuts().silent, 0u) << "just in time";
  guard.Look(now_ += kSecond);
  EXPECT_EQ(guard.cuts().silent, 1u);
  EXPECT_TRUE(Ended(mute));
  EXPECT_FALSE(Ended(spoke));
  guard.Look(now_ += 20 * kSecond);
  EXPECT_EQ(guard.cuts().silent, 1u) << "a connection is cut once";
}

TEST_F(ConnectionGuardTest, ANewConnectionWithAnOldOnesDescriptorBeginsAnew) {
  ConnectionGuard guard = Guard();
  int fd = -1;
  {
    const Socket first;
    const Socket end(Accept(first));
    fd = end.fd();
    Send(first, fd, kUnfinished);
    guard.Look(now_ += kSecond);
  }
  const Socket second;
  const Socket end(Accept(second));
  ASSERT_EQ(end.fd(), fd) << "the lowest free descriptor is taken";
  Send(second, fd, kUnfinished);
  guard.Look(now_ += kSecond);
  EXPECT_EQ(guard.cuts().unfinished, 0u);
}

TEST_F(ConnectionGuardTest, SocketsOfOtherPortsAreNotItsBusiness) {
  const Socket client;
  const Socket end(Accept(client));
  ConnectionGuard guard("tcp://127.0.0.1:1", {kUnfinished, kSecond});
  Send(client, end.fd(), 4 * kUnfinished);
  guard.Look(now_ += kSecond);
  guard.Look(now_ += 5 * kSecond);
  EXPECT_EQ(guard.cuts().unfinished + guard.cuts().silent, 0u);
}

}  // namespace
}  // namespace siftd::net
