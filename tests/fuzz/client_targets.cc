// SPDX-License-Identifier: Apache-2.0
// The clients' cores under workers that say anything: they must come to rest, send what can be
// read, and take in only what is whole.
#include <array>
#include <deque>
#include <optional>
#include <utility>

#include "pipeline/delivery/assembler.h"
#include "pipeline/delivery/loader_core.h"
#include "pipeline/delivery/publisher_core.h"
#include "pipeline/delivery/trainer_core.h"
#include "pipeline/wire/codec.h"
#include "pipeline/wire/digest.h"
#include "tests/fuzz/targets.h"

namespace siftd::fuzz {
namespace {

constexpr std::size_t kWorkers = 2;

// What all clients have in common. `Owner` has Act(actions) and Step(bytes, op), called for ops
// that are its own.
template <typename Core, typename Owner>
class FuzzedClient {
 public:
  FuzzedClient(Input input, Core* core, Owner* owner)
      : bytes_(input), core_(*core), owner_(*owner) {}

  void Run() {
    Act();
    while (!bytes_.empty()) {
      Step(bytes_.Byte());
      Act();
    }
    core_.WaitingFor(now_);
    core_.Leave(now_);
    Act();
  }

 private:
  void Step(std::uint8_t op) {
    const std::size_t worker = (op >> 3) % kWorkers;
    switch (op % 8) {
      case 0:
        core_.OnTick(now_ += milliseconds(bytes_.Number<std::uint16_t>()));
        return;
      case 1:
        return core_.OnLinkLost(worker, "cut", now_);
      case 2:
        return core_.OnNotSent(worker, now_);
      case 3:
        return owner_.Step(bytes_, now_);
      default:
        Say(worker, op % 8 != 4);
    }
  }

  // `patch`: in the name of the session in force, whatever the message says.
  void Say(std::size_t worker, bool patch) {
    auto message = Decode(bytes_.SomeFrames());
    if (!message.ok())
      return core_.OnLinkLost(worker, "sent what is no message: " + message.status().message(),
                              now_);
    if (patch) std::visit([&](auto& m) { m.session = session_[worker]; }, *message);
    core_.OnMessage(worker, std::move(*message), now_);
  }

  void Act() {
    for (int turns = 0;; ++turns) {
      Demand(turns < 1000, "the core comes to rest");
      auto actions = core_.TakeActions();
      for (const ClientSend& send : actions.sends) {
        Demand(send.worker < kWorkers, "a message goes to a worker");
        if (const auto* hello = std::get_if<Hello>(&send.message))
          session_[send.worker] = hello->session;
        const auto read = Decode(Encode(send.message));
        Demand(read.ok(), "what a client says can be read");
      }
      const bool more = owner_.Act(actions, now_);
      if (!more && actions.sends.empty() && actions.reconnect.empty()) return;
    }
  }

  Bytes bytes_;
  Core& core_;
  Owner& owner_;
  MonoTime now_{};
  std::array<SessionId, kWorkers> session_{};
};

Tensor OneByteEach(std::size_t rows) {
  return {"x",
          DType::kUInt8,
          {static_cast<std::int64_t>(rows)},
          Frame::Adopt(std::vector<std::uint8_t>(rows))};
}

struct LoaderOwner {
  LoaderCore* core;
  Mode mode;
  std::uint64_t pass = 0;
  std::uint64_t seq = 0;

  void Step(Bytes& bytes, MonoTime now) {
    const std::uint8_t what = bytes.Byte();
    if (what % 8 == 0) {
      core->EndPass(pass++, 0, std::exchange(seq, 0), what % 16 == 0, now);
    } else if (what % 8 == 1 && mode == Mode::kVerdicts) {
      core->CancelPass(pass++, now);
    } else if (what % 8 == 2 && mode == Mode::kVerdicts) {
      core->CloseLease({0, pass, what / 8u}, now);
    } else {
      Candidates batch;
      batch.key = {0, pass, seq++};
      batch.sample_id.assign(1 + what % 4, seq);
      batch.tensors.push_back(OneByteEach(batch.sample_id.size()));
      if (core->unsent() < 4) static_cast<void>(core->Offer(std::move(batch), now));
    }
  }
  bool Act(LoaderActions& actions, MonoTime /*now*/) {
    for (const LoaderActions::Accepted& a : actions.verdicts)
      Demand(a.verdict.decision.kept.size() <= a.verdict.decision.rows, "a verdict is whole");
    if (const auto position = core->TakePosition()) {
      pass = position->next_pass;
      seq = 0;
      return true;
    }
    return false;
  }
};

struct TrainerOwner {
  TrainerCore* core;
  Assembler assembler{{4, false}};

  void Step(Bytes& bytes, MonoTime now) {
    const std::uint8_t what = bytes.Byte();
    if (what % 16 == 0) core->Finish(now);
    if (what % 16 == 1) core->SetStep(what);
    const DecidedSet decided = core->decided();
    Demand(decided.next_pass.size() <= 1 << 16, "a loader has an index");
  }
  bool Act(TrainerActions& actions, MonoTime now) {
    for (Selected& rows : actions.accepted) {
      const std::size_t before = assembler.buffered_rows();
      const std::size_t kept = rows.decision.kept.size();
      const bool taken = assembler.Add(std::move(rows)).ok();
      Demand(assembler.buffered_rows() == before + (taken ? kept : 0), "rows are taken whole");
    }
    for (const TrainerActions::Ended& end : actions.ended) assembler.EndEpoch(end.epoch);
    bool some = false;
    while (const auto item = assembler.Take()) {
      some = true;
      if (!item->batch) continue;
      for (const Tensor& t : item->batch->tensors) {
        Demand(Validate(t).ok(), "a batch's tensors are valid");
        Demand(static_cast<std::size_t>(t.rows()) == item->batch->rows(), "and have its rows");
      }
    }
    if (some) core->OnConsumed(assembler.TakeEmptied(), assembler.buffered_rows(), now);
    return some;
  }
};

struct PublisherOwner {
  PublisherCore* core;
  std::uint64_t version = 0;

  static std::shared_ptr<ModelSnapshot> Snapshot(std::uint64_t version, ModelKind kind) {
    auto snapshot = std::make_shared<ModelSnapshot>();
    ModelBegin& begin = snapshot->begin;
    begin.version = version;
    begin.kind = kind;
    begin.total_bytes = 3000;
    begin.chunk_bytes = 1024;
    begin.chunks = 3;
    if (kind != ModelKind::kArtifact) begin.manifest = {{"w", DType::kUInt8, {3000}}};
    snapshot->bytes = Frame::Adopt(std::string(3000, 'w'));
    begin.sha256 = Sha256(snapshot->bytes.bytes());
    snapshot->crc32 = {1, 2, 3};
    return snapshot;
  }

  void Step(Bytes& bytes, MonoTime now) {
    const std::uint8_t what = bytes.Byte();
    if (what % 8 == 0) return core->SetArtifact(Snapshot(0, ModelKind::kArtifact), now);
    core->Offer(Snapshot(++version, what % 2 == 0 ? ModelKind::kFull : ModelKind::kDelta), now);
  }
  bool Act(PublisherActions& actions, MonoTime /*now*/) {
    for (const PublisherActions::Applied& a : actions.applied)
      Demand(a.version <= version, "nobody applies what was not sent");
    return false;
  }
};

template <typename Core, typename Owner>
void Run(Input input, Core* core, Owner* owner) {
  FuzzedClient<Core, Owner>(input, core, owner).Run();
}

}  // namespace

// The first byte chooses the mode.
void FuzzLoaderCore(Input input) {
  if (input.empty()) return;
  LoaderCoreOptions options;
  options.mode = input[0] % 2 == 0 ? Mode::kSamples : Mode::kVerdicts;
  options.incarnation = 1000;
  options.run = options.mode == Mode::kVerdicts ? 2000 : 0;
  options.job_spec.mode = options.mode;
  options.rescore_every = 1 + input[0] / 2 % 3;
  LoaderCore core(options, kWorkers, MonoTime{});
  LoaderOwner owner{&core, options.mode};
  Run(input.subspan(1), &core, &owner);
}

// The first byte chooses the ranks and whether passes mix.
void FuzzTrainerCore(Input input) {
  if (input.empty()) return;
  TrainerCoreOptions options;
  options.run = 2000;
  options.incarnation = 1000;
  options.world = 1 + input[0] % 2;
  options.loader_count = 2;
  options.steps_per_epoch = options.world > 1 || input[0] % 4 > 1 ? 10 : 0;
  options.job_spec.mode = Mode::kSamples;
  options.batch_size = 4;
  TrainerCore core(options, kWorkers, MonoTime{});
  TrainerOwner owner{&core};
  Run(input.subspan(1), &core, &owner);
}

void FuzzPublisherCore(Input input) {
  PublisherCoreOptions options;
  options.run = 2000;
  options.incarnation = 1000;
  PublisherCore core(options, kWorkers, MonoTime{});
  PublisherOwner owner{&core};
  Run(input, &core, &owner);
}

}  // namespace siftd::fuzz
