// SPDX-License-Identifier: Apache-2.0
// HttpServer: /metrics (Prometheus text), /healthz, /readyz. Runs on threads of its own and reads
// only the last snapshot that the I/O thread left. Start, destructor: the owner. Publish: the I/O
// thread.
#pragma once

#include <memory>
#include <string>

#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"

namespace siftd {

class HttpServer {
 public:
  // "ADDRESS:PORT", port 0 = any.
  static Result<std::unique_ptr<HttpServer>> Start(const std::string& address);
  ~HttpServer();

  // "127.0.0.1:41234"
  const std::string& bound() const;
  // `not_ready`: empty when ready.
  void Publish(std::shared_ptr<const StatusReply> status, std::string not_ready);

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace siftd
