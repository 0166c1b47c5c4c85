// SPDX-License-Identifier: Apache-2.0
// Names are resolved here because libzmq uses only the first address of a name.
#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>

#include "pipeline/net/dealer_pool.h"

namespace siftd {

Result<std::vector<std::string>> ResolveEndpoint(const std::string& endpoint) {
  constexpr std::string_view kTcp = "tcp://";
  if (endpoint.rfind(kTcp, 0) != 0) return std::vector<std::string>{endpoint};
  const std::size_t colon = endpoint.rfind(':');
  if (colon <= kTcp.size() || colon + 1 == endpoint.size()) {
    return InvalidArgument("endpoint is '" + endpoint + "'; allowed: tcp://ADDRESS:PORT");
  }
  const std::string host = endpoint.substr(kTcp.size(), colon - kTcp.size());
  const std::string port = endpoint.substr(colon);
  in_addr v4{};
  if (host.front() == '[' || inet_pton(AF_INET, host.c_str(), &v4) == 1) {
    return std::vector<std::string>{endpoint};
  }
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (const int rc = getaddrinfo(host.c_str(), nullptr, &hints, &list); rc != 0) {
    return Unavailable("cannot resolve '" + host + "' of " + endpoint + ": " + gai_strerror(rc));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(list, &freeaddrinfo);
  std::vector<std::string> endpoints;
  for (const addrinfo* a = list; a != nullptr; a = a->ai_next) {
    char text[INET6_ADDRSTRLEN];
    const bool v6 = a->ai_family == AF_INET6;
    const void* address =
        v6 ? static_cast<const void*>(&reinterpret_cast<sockaddr_in6*>(a->ai_addr)->sin6_addr)
           : static_cast<const void*>(&reinterpret_cast<sockaddr_in*>(a->ai_addr)->sin_addr);
    if (inet_ntop(a->ai_family, address, text, sizeof(text)) == nullptr) continue;
    endpoints.push_back(std::string(kTcp) +
                        (v6 ? "[" + std::string(text) + "]" : std::string(text)) + port);
  }
  std::sort(endpoints.begin(), endpoints.end());
  endpoints.erase(std::unique(endpoints.begin(), endpoints.end()), endpoints.end());
  // One worker, not two: what listens on localhost seldom listens on both of its addresses.
  const std::string loopback = std::string(kTcp) + "127.0.0.1" + port;
  if (host == "localhost" &&
      std::find(endpoints.begin(), endpoints.end(), loopback) != endpoints.end())
    endpoints = {loopback};
  return endpoints;
}

}  // namespace siftd
