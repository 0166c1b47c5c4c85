// SPDX-License-Identifier: Apache-2.0
// Worker: composes socket, delivery rules, flow graph, policy and model, and runs the I/O thread.
// Create, Run: one thread, which becomes the I/O thread. RequestStop: any thread.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/ports.h"
#include "pipeline/delivery/worker_core.h"
#include "pipeline/graph/sift_graph.h"
#include "pipeline/model/python_replica.h"
#include "pipeline/model/scorer.h"
#include "pipeline/net/router_endpoint.h"
#include "pipeline/net/wakeup.h"
#include "pipeline/select/selector.h"
#include "worker/config.h"
#include "worker/http_server.h"
#include "worker/log.h"
#include "worker/model_thread.h"

namespace siftd {

class Worker final : public DecidedPort {
 public:
  // Loads the scorer, binds the endpoints. `load`: what runs the scorer archive in LibTorch's place
  // (benchmarks). REQUIRES: config.Validate().ok()
  static Result<std::unique_ptr<Worker>> Create(const WorkerConfig& config, Log log,
                                                ReplicaLoader load = {});
  ~Worker() override;

  const std::string& endpoint() const { return router_->BoundEndpoint(); }
  std::string http() const { return http_ == nullptr ? "" : http_->bound(); }

  // Serves until RequestStop, then drains for at most config.drain_ms.
  void Run();
  void RequestStop(const std::string& reason);

  void Decided(ScoredBatchPtr batch) override;

 private:
  Worker(const WorkerConfig& config, Log log);
  Status Start(ReplicaLoader load);
  void Receive(MonoTime now);
  void TakeResults(MonoTime now);
  void Act(MonoTime now);
  void Send(PeerHandle to, const Message& message, MonoTime now);
  void Tick(MonoTime now);
  void Complete(StatusReply* status) const;
  void WarnOfSlowStages(const StatusReply& status, MonoTime now);
  void WarnOfCuts();

  const WorkerConfig config_;
  const Log log_;
  Wakeup wakeup_;

  // Filled by other threads, emptied by the I/O thread.
  std::mutex mu_;
  std::vector<ScoredBatchPtr> decided_;     // guarded by mu_
  std::vector<ModelResult> model_results_;  // guarded by mu_
  std::string stop_reason_;                 // guarded by mu_
  std::atomic<bool> stop_{false};

  std::unique_ptr<RouterEndpoint> router_;
  Frames outgoing_;  // empty but in Send
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<WorkerCore> core_;
  Selector selector_;  // the graph's select node's alone
  std::unique_ptr<Scorer> scorer_;
  std::shared_ptr<PythonReplica> python_;  // null with backend jit
  std::unique_ptr<SiftGraph> graph_;
  std::unique_ptr<ModelThread> model_;
  MonoTime last_tick_{};
  MonoTime last_publish_{};
  MonoTime last_progress_{};
  std::uint64_t last_decided_ = 0;
  net::Cuts warned_;
};

}  // namespace siftd
