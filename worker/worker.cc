// SPDX-License-Identifier: Apache-2.0
#include "worker/worker.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "pipeline/base/fault_point.h"
#include "pipeline/wire/codec.h"
#include "pipeline/wire/limits.h"
#include "worker/python_backend.h"
#include "worker/version.h"

namespace siftd {
namespace {

constexpr int kMessagesPerTurn = 64;  // before results and deadlines get their turn
constexpr Duration kPublishEvery = milliseconds(200);
// Of a worker that ends, for peers to read its Drain and its Returns: what they have not read when
// the link ends is gone, and an end without Drain looks like a death.
constexpr Duration kParting = milliseconds(300);
constexpr Duration kPartingLook = milliseconds(20);
constexpr Duration kStuck = std::chrono::seconds(10);
constexpr Duration kSilence = std::chrono::seconds(10);  // a connection without a word; at least

int Cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

bool HasBf16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return true;  // not known
#endif
}

std::string DefaultName() {
  char host[256] = "worker";
  gethostname(host, sizeof(host) - 1);
  return std::string(host) + "-" + std::to_string(getpid());
}

// More than any honest peer can have on its way: what its credit allows, or a publisher's chunks,
// and headers.
net::GuardLimits GuardFor(const WorkerConfig& config) {
  constexpr std::uint64_t kChunksInFlight = 5;
  const std::uint64_t chunk =
      std::min<std::uint64_t>(config.max_frame_bytes, limits::kMaxChunkBytes);
  net::GuardLimits guard;
  guard.unfinished_bytes =
      config.budget_bytes + kChunksInFlight * chunk + 2 * limits::kMaxHeaderBytes;
  guard.silence = std::max<Duration>(kSilence, 2 * milliseconds(config.liveness_ms));
  return guard;
}

WorkerConfig Completed(WorkerConfig config) {
  if (config.name.empty()) config.name = DefaultName();
  if (config.threads == 0)
    config.threads =
        static_cast<std::uint32_t>(std::max(1, Cores() / static_cast<int>(config.lanes)));
  return config;
}

}  // namespace

Worker::Worker(const WorkerConfig& config, Log log)
    : config_(Completed(config)), log_(std::move(log)) {}

Result<std::unique_ptr<Worker>> Worker::Create(const WorkerConfig& config, Log log,
                                               ReplicaLoader load) {
  std::unique_ptr<Worker> worker(new Worker(config, std::move(log)));
  SIFTD_RETURN_IF_ERROR(worker->Start(std::move(load)));
  return worker;
}

Status Worker::Start(ReplicaLoader load) {
  SIFTD_RETURN_IF_ERROR(CheckKeyFiles(config_));  // before the scorer takes its time
  ScorerOptions scorer;
  scorer.load = std::move(load);
  SIFTD_ASSIGN_OR_RETURN(scorer.device, ParseDevice(config_.device));
  const bool python = config_.backend == "python";
  // The children's own PyTorch tells whether their device is there.
  if (!python) SIFTD_RETURN_IF_ERROR(ProbeDevice(scorer.device));
  scorer.lanes = static_cast<int>(config_.lanes);
  scorer.threads = static_cast<int>(config_.threads);
  scorer.refuse_non_finite = config_.refuse_non_finite_weights;
  scorer.cost = CostOf(config_);
  if (scorer.cost.bf16 && config_.device == "cpu" && !HasBf16())
    log_->warn(
        "score_dtype is 'bf16', and this CPU has no bfloat16: scores will cost more, not less");
  scorer_ = std::make_unique<Scorer>(scorer);

  WorkerCoreOptions core;
  if (python) {
    SIFTD_ASSIGN_OR_RETURN(python_, StartPythonReplica(config_, log_));
    core.artifact_sha256 = python_->sha256();
    scorer_->Use(python_);
  } else if (!config_.artifact.empty()) {
    std::string note;
    SIFTD_ASSIGN_OR_RETURN(
        core.artifact_sha256,
        LoadArtifactFile(config_.artifact, config_.artifact_sha256, scorer_.get(), &note));
    if (!note.empty()) log_->warn(note);
  }
  core.name = config_.name;
  core.version = kVersion;
  core.device = ToString(scorer.device) + ", " + std::to_string(config_.lanes) + " x " +
                std::to_string(config_.threads) + " threads" +
                (python ? ", python " + config_.python_factory : "") + ToString(scorer.cost);
  core.job = config_.job;
  core.incarnation = WallNanos();
  core.budget_bytes = config_.budget_bytes;
  core.max_batch_bytes = config_.max_batch_bytes;
  core.max_frame_bytes = config_.max_frame_bytes;
  core.max_rows = config_.max_rows;
  core.loader_window = config_.loader_window;
  core.heartbeat = milliseconds(config_.heartbeat_ms);
  core.liveness = milliseconds(config_.liveness_ms);
  core.score_deadline = BatchDeadline(config_);
  core.default_policy = config_.policy;
  core.check_policy = [](const PolicyOptions& policy) { return siftd::Validate(policy); };
  core.artifact_upload = config_.allow_artifact_upload;
  core.artifact_pinned = config_.artifact_sha256;
  core.keys = !config_.key_file.empty();
  core.max_peers = config_.max_peers;
  core.max_hellos = config_.max_hellos;
  core.max_breaches = config_.max_breaches;
  core_ = std::make_unique<WorkerCore>(core);

  SiftGraphOptions graph;
  graph.batcher.max_rows = config_.score_batch_rows;
  graph.batcher.max_age = milliseconds(config_.max_batch_age_ms);
  graph.max_inflight = static_cast<int>(config_.max_inflight);
  graph.threads = static_cast<int>(config_.graph_threads);
  SIFTD_RETURN_IF_ERROR(graph.Validate());
  graph_ = std::make_unique<SiftGraph>(
      graph, scorer_.get(), [this](ScoredBatch& batch) { selector_.Select(batch); }, this);
  model_ = std::make_unique<ModelThread>(config_.max_model_bytes, scorer_.get(),
                                         [this](ModelResult result) {
                                           {
                                             const std::lock_guard lock(mu_);
                                             model_results_.push_back(std::move(result));
                                           }
                                           wakeup_.Wake();
                                         });

  RouterOptions router;
  router.endpoint = config_.endpoint;
  router.insecure_plaintext = config_.insecure_plaintext;
  router.max_frame_bytes = static_cast<std::int64_t>(config_.max_frame_bytes);
  router.high_water_mark = static_cast<int>(2 * config_.loader_window + 64);
  router.guard = GuardFor(config_);
  router.key_file = config_.key_file;
  router.client_keys = config_.client_keys;
  router.handshakes = config_.max_hellos;
  router.log = [log = log_](const std::string& line) { log->warn(line); };
  SIFTD_ASSIGN_OR_RETURN(router_, RouterEndpoint::Bind(router));
  if (!config_.key_file.empty())
    log_->info("connections are encrypted; the keys in {} may connect", config_.client_keys);
  if (!config_.http.empty()) {
    SIFTD_ASSIGN_OR_RETURN(http_, HttpServer::Start(config_.http));
  }
  last_progress_ = Now();
  return OkStatus();
}

// Graph before sockets: what the graph still answers has nowhere to go by then, and is dropped on
// purpose. The scorer stops first, so that nobody waits for a forward that hangs.
Worker::~Worker() {
  if (scorer_ != nullptr) scorer_->Close();
  model_.reset();
  graph_.reset();
  http_.reset();
  router_.reset();
}

void Worker::RequestStop(const std::string& reason) {
  {
    const std::lock_guard lock(mu_);
    stop_reason_ = reason;
  }
  stop_ = true;
  wakeup_.Wake();
}

void Worker::Decided(ScoredBatchPtr batch) {
  {
    const std::lock_guard lock(mu_);
    decided_.push_back(std::move(batch));
  }
  wakeup_.Wake();
}

void Worker::Run() {
  const Duration tick = milliseconds(std::max(1u, config_.heartbeat_ms / 4));
  const Duration age = milliseconds(std::max(1u, config_.max_batch_age_ms));
  MonoTime deadline = MonoTime::max();
  MonoTime parted = MonoTime::max();
  while (true) {
    const Duration wait = graph_->inflight() > 0 ? std::min(age, tick) : tick;
    router_->Poll(stop_ ? std::min(wait, kPartingLook) : wait, wakeup_);
    wakeup_.Clear();
    const MonoTime now = Now();
    Receive(now);
    TakeResults(now);
    graph_->Tick();
    if (now - last_tick_ >= tick) Tick(now);
    if (stop_ && deadline == MonoTime::max()) {
      std::string reason;
      {
        const std::lock_guard lock(mu_);
        reason = stop_reason_;
      }
      core_->StartDrain(reason, now);
      deadline = now + milliseconds(config_.drain_ms);
      Act(now);
    }
    if (stop_ && core_->drained() && parted == MonoTime::max()) parted = now + kParting;
    const bool done = core_->drained() && (core_->deserted() || now >= parted);
    if (stop_ && (done || now >= deadline)) {
      if (!core_->drained()) {
        log_->warn(
            "ending with {} batches that were not acked; their loaders send them to other workers",
            core_->Snapshot(now).held_batches);
      }
      return;
    }
  }
}

void Worker::Receive(MonoTime now) {
  for (const PeerHandle peer : router_->TakeChanged()) {
    core_->OnPeer(peer, router_->Rights(peer), now);
    Act(now);
  }
  RouterEndpoint::Received received;
  for (int i = 0; i < kMessagesPerTurn && router_->Receive(&received); ++i) {
    if (received.fresh) core_->OnPeer(received.peer, router_->Rights(received.peer), now);
    if (received.too_many_frames) {
      core_->OnMalformed(received.peer,
                         InvalidArgument("frames are more than 34; allowed: 2 to 34"), now);
    } else if (auto message = Decode(received.frames); message.ok()) {
      log_->debug("<- {} {}", received.peer, MessageName(*message));
      if (std::holds_alternative<Candidates>(*message)) FaultPoint("receive");
      if (std::holds_alternative<Ack>(*message)) FaultPoint("ack");
      core_->OnMessage(received.peer, std::move(message).value(), now);
    } else {
      core_->OnMalformed(received.peer, message.status(), now);
    }
    Act(now);
  }
}

void Worker::TakeResults(MonoTime now) {
  std::vector<ScoredBatchPtr> decided;
  std::vector<ModelResult> results;
  {
    const std::lock_guard lock(mu_);
    decided.swap(decided_);
    results.swap(model_results_);
  }
  for (const ScoredBatchPtr& batch : decided) core_->OnDecided(batch, now);
  for (ModelResult& result : results) {
    // Before the core admits batches that waited for this version.
    if (result.ack.state == ModelState::kApplied && result.artifact_sha256.empty()) {
      graph_->RunInSelect([this, run = result.ack.run, version = result.ack.version,
                           history = std::move(result.history)]() mutable {
        selector_.SeedHistory(run, version, std::move(history));
      });
    }
    core_->OnModelAck(std::move(result.ack), result.step, result.artifact_sha256, now);
  }
  if (!decided.empty() || !results.empty()) Act(now);
}

// Sends may fail and end sessions, which gives new actions.
void Worker::Act(MonoTime now) {
  while (true) {
    WorkerActions actions = core_->TakeActions();
    if (actions.sends.empty() && actions.forget.empty() && actions.cut.empty() &&
        actions.admitted.empty() && actions.model_work.empty() && actions.log.empty() &&
        !actions.discard_staging) {
      return;
    }
    for (const std::string& line : actions.log) log_->info(line);
    for (WorkerActions::Send& send : actions.sends) {
      if (auto* status = std::get_if<StatusReply>(&send.message)) Complete(status);
      Send(send.to, send.message, now);
    }
    for (const PeerHandle peer : actions.cut) router_->Cut(peer);  // before it is forgotten
    for (const PeerHandle peer : actions.forget) router_->Forget(peer);
    if (actions.discard_staging) model_->Discard();
    for (ScoredBatchPtr& batch : actions.admitted) graph_->Submit(std::move(batch));
    for (Message& work : actions.model_work) {
      ModelAck refused;
      if (const auto* chunk = std::get_if<ModelChunk>(&work)) {
        refused = {{},
                   chunk->run,
                   chunk->version,
                   ModelState::kRefused,
                   0,
                   ErrorCode::kCreditExceeded,
                   "more chunks in flight than allowed: 4"};
      }
      if (!model_->Post(std::move(work)) && refused.run != 0)
        core_->OnModelAck(refused, 0, "", now);
    }
  }
}

void Worker::Send(PeerHandle to, const Message& message, MonoTime now) {
  log_->debug("-> {} {}", to, MessageName(message));
  Encode(message, &outgoing_);
  const auto sent = router_->Send(to, outgoing_);
  outgoing_.clear();
  if (sent == RouterEndpoint::Sent::kUnreachable) return core_->OnUnreachable(to, now);
  if (std::holds_alternative<Selected>(message)) FaultPoint("await_ack");
}

void Worker::Tick(MonoTime now) {
  last_tick_ = now;
  core_->OnTick(now);
  Act(now);
  if (now - last_publish_ < kPublishEvery) return;
  last_publish_ = now;
  auto status = std::make_shared<StatusReply>(core_->Snapshot(now));
  Complete(status.get());
  WarnOfSlowStages(*status, now);
  WarnOfCuts();
  std::string reason = core_->NotReadyReason();
  if (reason.empty() && python_ != nullptr) reason = python_->down();
  if (http_ != nullptr) http_->Publish(std::move(status), reason);
}

// What the core does not know.
void Worker::Complete(StatusReply* status) const {
  status->stages = graph_->Stages();
  if (const net::Cuts& cuts = router_->cuts(); cuts.unfinished + cuts.silent > 0) {
    status->errors["CUT_UNFINISHED_MESSAGE"] = cuts.unfinished;
    status->errors["CUT_SILENT_CONNECTION"] = cuts.silent;
  }
  if (const std::uint64_t refused = router_->refused_handshakes(); refused > 0)
    status->errors["HANDSHAKE_REFUSED"] = refused;
  if (python_ == nullptr) return;
  if (const std::uint64_t deaths = python_->deaths(); deaths > 0)
    status->errors["SCORER_PROCESS_DIED"] = deaths;
  if (std::string down = python_->down(); !down.empty()) {
    status->ready = false;
    status->not_ready_reason = std::move(down);
  }
}

void Worker::WarnOfCuts() {
  const net::Cuts cuts = router_->cuts();
  if (cuts.unfinished > warned_.unfinished) {
    log_->warn("{} connections were cut: each sent a message that did not end",
               cuts.unfinished - warned_.unfinished);
  }
  if (cuts.silent > warned_.silent) {
    log_->warn("{} connections were cut: none of them ever sent a message",
               cuts.silent - warned_.silent);
  }
  warned_ = cuts;
}

void Worker::WarnOfSlowStages(const StatusReply& status, MonoTime now) {
  if (graph_->inflight() == 0 || status.decided_batches != last_decided_) last_progress_ = now;
  last_decided_ = status.decided_batches;
  if (now - last_progress_ < kStuck) return;
  for (const StageStatus& stage : status.stages) {
    if (stage.queued > 0)
      log_->warn("{} batches in stage '{}' and none decided for 10 s", stage.queued, stage.stage);
  }
  last_progress_ = now;
}

}  // namespace siftd
