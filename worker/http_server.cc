// SPDX-License-Identifier: Apache-2.0
#include "worker/http_server.h"

#include <httplib.h>

#include <charconv>
#include <mutex>
#include <thread>
#include <utility>

#include "pipeline/base/thread.h"
#include "worker/metrics.h"

namespace siftd {
namespace {

constexpr std::size_t kMostBytes = 4096;  // of a request's body: none is asked for

}  // namespace

struct HttpServer::Impl {
  httplib::Server server;
  std::string bound;
  std::mutex mu;
  std::shared_ptr<const StatusReply> status;  // guarded by mu
  std::string not_ready = "starting";         // guarded by mu
  Thread thread;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  int port = -1;
  if (colon != std::string::npos) {
    std::from_chars(address.data() + colon + 1, address.data() + address.size(), port);
  }
  if (port < 0 || port > 65535) {
    return InvalidArgument("http is '" + address +
                           "'; allowed: ADDRESS:PORT, for example 127.0.0.1:9090");
  }
  const std::string host = address.substr(0, colon);
  auto impl = std::make_unique<Impl>();
  Impl* p = impl.get();
  p->server.set_payload_max_length(kMostBytes);
  p->server.set_read_timeout(5);
  p->server.new_task_queue = [] { return new httplib::ThreadPool(2); };
  p->server.Get("/metrics", [p](const httplib::Request&, httplib::Response& response) {
    std::shared_ptr<const StatusReply> status;
    {
      const std::lock_guard lock(p->mu);
      status = p->status;
    }
    response.set_content(status == nullptr ? "" : MetricsText(*status),
                         "text/plain; version=0.0.4");
  });
  p->server.Get("/healthz", [](const httplib::Request&, httplib::Response& r) {
    r.set_content("ok\n", "text/plain");
  });
  p->server.Get("/readyz", [p](const httplib::Request&, httplib::Response& response) {
    const std::lock_guard lock(p->mu);
    response.status = p->not_ready.empty() ? 200 : 503;
    response.set_content(p->not_ready.empty() ? "ready\n" : p->not_ready + "\n", "text/plain");
  });
  if (port == 0) {
    port = p->server.bind_to_any_port(host);
  } else if (!p->server.bind_to_port(host, port)) {
    port = -1;
  }
  if (port < 0) return Unavailable("cannot bind http " + address + ". Port 0 takes any free port");
  p->bound = host + ":" + std::to_string(port);
  p->thread = Thread("siftd-http", [p] { p->server.listen_after_bind(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::~HttpServer() {
  // stop() before listen_after_bind() runs would be lost: the thread may only just have begun.
  while (!impl_->server.is_running()) std::this_thread::yield();
  impl_->server.stop();
  impl_->thread.Join();
}

const std::string& HttpServer::bound() const { return impl_->bound; }

void HttpServer::Publish(std::shared_ptr<const StatusReply> status, std::string not_ready) {
  const std::lock_guard lock(impl_->mu);
  impl_->status = std::move(status);
  impl_->not_ready = std::move(not_ready);
}

}  // namespace siftd
