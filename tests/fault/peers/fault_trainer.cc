// SPDX-License-Identifier: Apache-2.0
// siftd_fault_trainer: a TrainerClient and, at rank 0, a ModelPublisher, that train nothing and
// write down what they are given. Passes FaultPoint("step") between a batch and its step,
// FaultPoint("checkpoint") between a step and its checkpoint.
//
//   siftd_fault_trainer --endpoint tcp://127.0.0.1:7070 --batch 16 --keep 0.5 --events t0
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pipeline/base/fault_point.h"
#include "siftd/model_publisher.h"
#include "siftd/state_file.h"
#include "siftd/trainer_client.h"
#include "tests/fault/peers/event_log.h"
#include "tests/fault/peers/rows.h"

namespace siftd::fault {
namespace {

struct Flags {
  TrainerOptions trainer;
  std::vector<std::string> publish_endpoints;  // empty: the trainer's
  double keep = 0.5;
  std::uint64_t epochs = 0;  // with steps_per_epoch
  std::uint64_t step_us = 0;
  std::uint64_t sync_every = 5;
  std::uint64_t weight_floats = 64;
  std::vector<std::string> bad;  // "VERSION:HOW"
  std::string state;
  std::uint64_t checkpoint_every = 1;
  std::string gate;
  int timeout_ms = 120000;
  int linger_ms = 5000;
  std::string events;
};

// Every number of a version is the version, so that a torn one shows.
std::vector<Tensor> Weights(const Flags& flags, std::uint64_t version) {
  const auto bad = [&](const char* how) {
    const std::string wanted = std::to_string(version) + ":" + how;
    return std::count(flags.bad.begin(), flags.bad.end(), wanted) > 0;
  };
  const std::size_t n = flags.weight_floats + (bad("shape") ? 1 : 0);
  std::vector<float> values(n, static_cast<float>(version));
  if (bad("nan")) values[n / 2] = NAN;
  const DType dtype = bad("dtype") ? DType::kInt32 : DType::kFloat32;
  const char* name = bad("name") ? "other" : "weight";
  return {{name,
           dtype,
           {static_cast<std::int64_t>(n)},
           Frame::Copy(values.data(), values.size() * sizeof(float))}};
}

std::string SpansJson(const TrainBatch& batch) {
  std::string out = "[";
  for (const RowSpan& s : batch.spans) {
    if (out.size() > 1) out += ",";
    out += ToJson(std::vector<std::uint64_t>{s.key.loader, s.key.pass, s.key.seq, s.epoch, s.rows,
                                             static_cast<std::uint64_t>(s.outcome), s.model_version,
                                             s.last ? 1u : 0u});
  }
  return out + "]";
}

class FaultTrainer {
 public:
  FaultTrainer(Flags flags, EventLog* log) : flags_(std::move(flags)), log_(log) {}

  Status Run() {
    SIFTD_RETURN_IF_ERROR(Connect());
    std::uint64_t epochs = 0;
    while (true) {
      SIFTD_ASSIGN_OR_RETURN(const TrainerItem item, trainer_->Next());
      if (item.kind == TrainerItem::Kind::kRunOver) break;
      if (item.kind == TrainerItem::Kind::kEpochOver) {
        log_->Write(Event("epoch").Put("epoch", item.epoch).Put("step", step_));
        if (flags_.trainer.steps_per_epoch > 0 && ++epochs == flags_.epochs) break;
        continue;
      }
      WaitForGate();
      SIFTD_RETURN_IF_ERROR(Train(item.batch));
    }
    trainer_->Finish();
    const TrainerClient::Stats s = trainer_->stats();
    log_->Write(Event("over")
                    .Put("step", step_)
                    .Put("candidates", s.candidates)
                    .Put("kept", s.kept)
                    .Put("unsifted", s.unsifted)
                    .Put("rejected", s.rejected_batches)
                    .Put("duplicates", s.duplicates)
                    .Put("dropped", s.dropped_rows));
    return OkStatus();
  }

 private:
  Status Connect() {
    TrainerOptions options = flags_.trainer;
    if (!flags_.state.empty() && std::filesystem::exists(flags_.state)) {
      SIFTD_ASSIGN_OR_RETURN(options.resume, LoadState(flags_.state));
      step_ = options.resume->steps;
    }
    SIFTD_ASSIGN_OR_RETURN(trainer_, TrainerClient::Connect(options));
    log_->Write(Event("start")
                    .Put("run", trainer_->run())
                    .Put("rank", options.rank)
                    .Put("world", options.world)
                    .Put("step", step_));
    if (options.rank != 0) return OkStatus();
    PublisherOptions publisher{options.client, trainer_->run(), {}};
    if (!flags_.publish_endpoints.empty()) publisher.client.endpoints = flags_.publish_endpoints;
    SIFTD_ASSIGN_OR_RETURN(publisher_, ModelPublisher::Connect(publisher));
    return Publish();
  }

  Status Publish() {
    SIFTD_ASSIGN_OR_RETURN(version_, publisher_->Publish(step_, Weights(flags_, version_ + 1)));
    log_->Write(Event("publish").Put("version", version_).Put("step", step_));
    return OkStatus();
  }

  Status Train(const TrainBatch& batch) {
    log_->Write(Event("take")
                    .Put("step", step_ + 1)
                    .Put("ids", batch.sample_id)
                    .PutJson("spans", SpansJson(batch)));
    if (!RowsAreTheirOwn(batch.tensors, batch.sample_id))
      return DataLoss("rows of step " + std::to_string(step_ + 1) + " are not their own");
    std::this_thread::sleep_for(std::chrono::microseconds(flags_.step_us));  // the step's cost
    FaultPoint("step");
    ++step_;
    trainer_->Step();
    log_->Write(Event("step").Put("step", step_));
    if (!flags_.state.empty() && step_ % flags_.checkpoint_every == 0) {
      FaultPoint("checkpoint");
      SIFTD_RETURN_IF_ERROR(SaveState(trainer_->State(), flags_.state));
      log_->Write(Event("checkpoint").Put("step", step_));
    }
    if (publisher_ != nullptr && step_ % flags_.sync_every == 0) SIFTD_RETURN_IF_ERROR(Publish());
    TellRefusals();
    return OkStatus();
  }

  void TellRefusals() {
    if (publisher_ == nullptr) return;
    const std::vector<std::string> all = publisher_->refusals();
    for (; refusals_ < all.size(); ++refusals_)
      log_->Write(Event("refusal").Put("text", all[refusals_]));
  }

  // The file says how many steps may be made. Until then nothing is trained, as in a validation.
  void WaitForGate() {
    if (flags_.gate.empty() || step_ < allowed_) return;
    const auto open = [this] { return std::ifstream(flags_.gate) >> allowed_ && step_ < allowed_; };
    if (open()) return;
    log_->Write(Event("gate").Put("step", step_));
    while (!open()) std::this_thread::sleep_for(milliseconds(5));  // between two looks
  }

  const Flags flags_;
  EventLog* const log_;
  std::unique_ptr<TrainerClient> trainer_;
  std::unique_ptr<ModelPublisher> publisher_;
  std::uint64_t step_ = 0;
  std::uint64_t version_ = 0;
  std::uint64_t allowed_ = 0;  // steps
  std::size_t refusals_ = 0;
};

int Main(int argc, char** argv) {
  Flags flags;
  TrainerOptions& o = flags.trainer;
  CLI::App app("A trainer rank of the fault suite.");
  app.add_option("--endpoint", o.client.endpoints, "Of a worker; may be repeated")->required();
  app.add_option("--publish-endpoint", flags.publish_endpoints, "The publisher's own way to one");
  app.add_option("--name", o.client.name);
  app.add_option("--batch", o.batch_size, "Rows");
  app.add_option("--loaders", o.loader_count);
  app.add_option("--rank", o.rank);
  app.add_option("--world", o.world);
  app.add_option("--run", o.run, "The same for all ranks; 0: the clock");
  app.add_option("--steps-per-epoch", o.steps_per_epoch);
  app.add_option("--epochs", flags.epochs, "With --steps-per-epoch");
  app.add_option("--seed", o.seed, "Of the coin");
  app.add_option("--keep", flags.keep, "Of policy uniform");
  app.add_option("--step-us", flags.step_us, "A step takes this long");
  app.add_option("--sync-every", flags.sync_every, "Steps between two versions")
      ->check(CLI::PositiveNumber);
  app.add_option("--weight-floats", flags.weight_floats);
  app.add_option("--bad", flags.bad,
                 "VERSION:HOW: a version with a wrong nan, shape, dtype or name");
  app.add_option("--state", flags.state, "Resume from this file if it is there; write it");
  app.add_option("--checkpoint-every", flags.checkpoint_every)->check(CLI::PositiveNumber);
  app.add_option("--gate", flags.gate, "A file that says how many steps may be made");
  app.add_option("--timeout-ms", flags.timeout_ms, "Of the wait for a batch");
  app.add_option("--linger-ms", flags.linger_ms);
  app.add_option("--events", flags.events, "Event log");
  CLI11_PARSE(app, argc, argv);
  EventLog log(flags.events);
  o.client.log = [&log](const std::string& line) { log.Write(Event("log").Put("text", line)); };
  o.policy.kind = UniformOptions{flags.keep};
  o.timeout = milliseconds(flags.timeout_ms);
  o.linger = milliseconds(flags.linger_ms);
  const Status status = FaultTrainer(flags, &log).Run();
  if (!status.ok()) log.Error(status);
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace siftd::fault

int main(int argc, char** argv) { return siftd::fault::Main(argc, argv); }
