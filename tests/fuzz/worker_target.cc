// SPDX-License-Identifier: Apache-2.0
// The worker's core under peers that say anything: it must answer with messages that can be read,
// hold no more than it was given, and decide each batch that it takes.
#include <algorithm>
#include <array>
#include <utility>

#include "pipeline/delivery/worker_core.h"
#include "pipeline/select/selector.h"
#include "pipeline/wire/codec.h"
#include "tests/fuzz/targets.h"

namespace siftd::fuzz {
namespace {

constexpr std::size_t kPeers = 4;

class FuzzedWorker {
 public:
  explicit FuzzedWorker(Input input) : bytes_(input), core_(Options()) {}

  void Run() {
    while (!bytes_.empty()) {
      Step(bytes_.Byte());
      Act();
    }
    Demand(Decode(Encode(core_.Snapshot(now_))).ok(), "the status can be sent");
    core_.StartDrain("the input is over", now_);
    Act();
    core_.OnTick(now_ + std::chrono::hours(1));
    Act();
  }

 private:
  static WorkerCoreOptions Options() {
    WorkerCoreOptions options;
    options.name = "fuzzed";
    options.incarnation = 1;
    options.budget_bytes = 1 << 16;
    options.max_batch_bytes = 1 << 12;
    options.max_rows = 64;
    options.artifact_upload = true;
    options.artifact_sha256 = "ab";
    options.check_policy = [](const PolicyOptions& policy) { return Validate(policy); };
    return options;
  }

  void Step(std::uint8_t op) {
    const std::size_t peer = (op >> 3) % kPeers;
    switch (op % 8) {
      case 0:
        core_.OnTick(now_ += milliseconds(bytes_.Number<std::uint16_t>()));
        return;
      case 1:
        core_.OnUnreachable(Handle(peer), now_);
        ++lives_[peer];
        return;
      case 2: {
        ModelAck ack;
        ack.run = core_.Snapshot(now_).run;
        ack.version = bytes_.Byte();
        ack.state = static_cast<ModelState>(1 + bytes_.Byte() % 3);
        return core_.OnModelAck(ack, bytes_.Byte(), "cd", now_);
      }
      default:
        Say(peer, op % 8 == 3);
    }
  }

  // `patch`: in the name of the peer's session, whatever the message says.
  void Say(std::size_t peer, bool patch) {
    auto message = Decode(bytes_.SomeFrames());
    if (!message.ok()) return core_.OnMalformed(Handle(peer), message.status(), now_);
    if (auto* hello = std::get_if<Hello>(&*message)) {
      session_[peer] = hello->session;
    } else if (patch) {
      std::visit([&](auto& m) { m.session = session_[peer]; }, *message);
    }
    core_.OnMessage(Handle(peer), std::move(*message), now_);
  }

  PeerHandle Handle(std::size_t peer) const { return 1 + peer + kPeers * lives_[peer]; }

  void Act() {
    for (int turns = 0;; ++turns) {
      Demand(turns < 1000, "the core comes to rest");
      WorkerActions actions = core_.TakeActions();
      for (const WorkerActions::Send& send : actions.sends) {
        Demand(send.to != 0, "an answer goes to somebody");
        Demand(Decode(Encode(send.message)).ok(), "an answer can be read");
      }
      Demand(actions.log.size() < 1000, "a message is worth a few lines of log");
      if (actions.admitted.empty()) break;
      for (const ScoredBatchPtr& batch : actions.admitted) Decide(batch);
    }
    Demand(core_.Snapshot(now_).held_bytes <= kMostHeld, "what is held is bounded");
  }

  // As the graph does.
  void Decide(const ScoredBatchPtr& batch) {
    Candidates& in = batch->candidates;
    Demand(batch->job != nullptr, "a batch in the graph has a job");
    if (batch->decision.outcome != Outcome::kRejected && !batch->pass_through) {
      std::vector<float> column(in.sample_id.begin(), in.sample_id.end());
      batch->scores.names = {"loss", "confidence"};
      batch->scores.columns = {column, column};
    }
    selector_.Select(*batch);
    for (const std::uint32_t row : batch->decision.kept) {
      Demand(row < in.sample_id.size(), "a kept row is one of the batch");
      batch->kept_ids.push_back(in.sample_id[row]);
    }
    if (batch->job->mode == Mode::kSamples && !batch->decision.kept.empty()) {
      for (const Tensor& tensor : in.tensors)
        batch->kept_tensors.push_back(GatherRows(tensor, batch->decision.kept));
    }
    in.tensors.clear();
    core_.OnDecided(batch, now_);
  }

  // The loaders' credit, overdrawn once by each of them by what one input can hold.
  static constexpr std::uint64_t kMostHeld = 1 << 24;

  Bytes bytes_;
  WorkerCore core_;
  Selector selector_;
  MonoTime now_{};
  std::array<SessionId, kPeers> session_{};
  std::array<std::uint64_t, kPeers> lives_{};
};

}  // namespace

void FuzzWorkerCore(Input input) { FuzzedWorker(input).Run(); }

}  // namespace siftd::fuzz
