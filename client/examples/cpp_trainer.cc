// SPDX-License-Identifier: Apache-2.0
// A trainer in C++: trains the module inside a scorer archive (made by siftd.export_scorer in
// Python) on the rows that the workers keep, and publishes its weights to them.
//
//   siftd_cpp_trainer --scorer scorer.pt --endpoint tcp://127.0.0.1:7070 --loaders 2
#include <torch/optim.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>

#include "cpp_checkpoint.h"
#include "siftd/model_publisher.h"
#include "siftd/torch_bridge.h"
#include "siftd/trainer_client.h"

namespace {

struct Setting {
  siftd::TrainerOptions trainer;
  std::string scorer;
  std::string save;
  std::string checkpoints;
  std::uint64_t checkpoint_every = 100;
  double lr = 0.05;
  double uniform = 0;
  std::uint64_t sync_every = 20;
};

siftd::Status Train(Setting setting) {
  SIFTD_ASSIGN_OR_RETURN(siftd::TorchScorer scorer, siftd::TorchScorer::Load(setting.scorer));
  torch::optim::SGD optimizer(scorer.Parameters(),
                              torch::optim::SGDOptions(setting.lr).momentum(0.9));
  if (const auto newest = NewestCheckpoint(setting.checkpoints); !newest.empty()) {
    SIFTD_ASSIGN_OR_RETURN(setting.trainer.resume,
                           LoadCheckpoint(newest, scorer.module, optimizer));
    std::printf("goes on from %s\n", newest.c_str());
    std::fflush(stdout);
  }

  SIFTD_ASSIGN_OR_RETURN(const auto trainer, siftd::TrainerClient::Connect(setting.trainer));
  SIFTD_ASSIGN_OR_RETURN(
      const auto publisher,
      siftd::ModelPublisher::Connect({setting.trainer.client, trainer->run(), scorer.archive}));
  std::uint64_t step = setting.trainer.resume ? setting.trainer.resume->steps : 0;
  SIFTD_ASSIGN_OR_RETURN(auto weights, scorer.Weights());
  SIFTD_RETURN_IF_ERROR(publisher->Publish(step, weights).status());

  double loss_sum = 0;
  std::uint64_t steps = 0;
  std::uint64_t rows = 0;
  while (true) {
    SIFTD_ASSIGN_OR_RETURN(const siftd::TrainerItem item, trainer->Next());
    if (item.kind == siftd::TrainerItem::Kind::kRunOver) break;
    if (item.kind == siftd::TrainerItem::Kind::kEpochOver) {
      const auto s = trainer->stats();
      std::printf("epoch %u: loss of kept rows %.4f, kept %llu of %llu candidates, waited %.3f s\n",
                  item.epoch, loss_sum / static_cast<double>(std::max<std::uint64_t>(1, steps)),
                  static_cast<unsigned long long>(s.kept),
                  static_cast<unsigned long long>(s.candidates), s.wait_seconds);
      std::fflush(stdout);
      loss_sum = 0;
      steps = 0;
      continue;
    }
    const at::Tensor loss = scorer.Loss(item.batch.tensors).mean();
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    loss_sum += loss.item<double>();
    ++steps;
    rows += item.batch.rows();
    ++step;
    trainer->Step();
    if (step % setting.sync_every == 0) {
      SIFTD_ASSIGN_OR_RETURN(weights, scorer.Weights());
      SIFTD_RETURN_IF_ERROR(publisher->Publish(step, weights, trainer->recent_scores()).status());
    }
    if (!setting.checkpoints.empty() && step % setting.checkpoint_every == 0) {
      SIFTD_RETURN_IF_ERROR(
          SaveCheckpoint(setting.checkpoints, trainer->State(), scorer.module, optimizer));
      std::printf("checkpoint at step %llu, %llu rows\n", static_cast<unsigned long long>(step),
                  static_cast<unsigned long long>(rows));
      std::fflush(stdout);
    }
  }
  trainer->Finish();
  const auto s = trainer->stats();
  std::printf("trained %llu rows in %llu batches; kept %llu, duplicates dropped %llu\n",
              static_cast<unsigned long long>(rows), static_cast<unsigned long long>(s.batches),
              static_cast<unsigned long long>(s.kept),
              static_cast<unsigned long long>(s.duplicates));
  if (!setting.save.empty()) scorer.module.save(setting.save);
  return siftd::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  Setting setting;
  siftd::TrainerOptions& trainer = setting.trainer;
  CLI::App app("Trains a scorer's module on the rows that siftd's workers keep.");
  app.add_option("--scorer", setting.scorer, "archive of siftd.export_scorer")->required();
  app.add_option("--endpoint", trainer.client.endpoints, "of a worker; may be repeated")
      ->required();
  app.add_option("--keys", trainer.client.keys, "secret key file, for workers with keys")
      ->envname("SIFTD_KEYS");
  app.add_option("--worker-key", trainer.client.worker_key,
                 "their public key file; default: worker.key beside --keys")
      ->envname("SIFTD_WORKER_KEY");
  app.add_option("--loaders", trainer.loader_count, "of the job")->capture_default_str();
  app.add_option("--batch", trainer.batch_size, "rows")->capture_default_str();
  app.add_option("--seed", trainer.seed, "of the keep decisions")->capture_default_str();
  app.add_option("--lr", setting.lr, "learning rate")->capture_default_str();
  app.add_option("--sync-every", setting.sync_every, "steps between two publishes")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--uniform", setting.uniform,
                 "keep each row with this probability instead of by its confidence: the control")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--checkpoints", setting.checkpoints,
                 "folder: a checkpoint is written every N steps, and the newest one resumed");
  app.add_option("--checkpoint-every", setting.checkpoint_every, "steps")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--save", setting.save, "write the trained module here");
  CLI11_PARSE(app, argc, argv);
  if (setting.uniform > 0) {
    trainer.policy.kind = siftd::UniformOptions{setting.uniform};
  } else {
    trainer.policy.kind = siftd::ConfidenceOptions{};
  }
  trainer.client.log = [](const std::string& line) { std::cerr << line << "\n"; };
  if (const siftd::Status status = Train(setting); !status.ok()) {
    std::cerr << status.ToString() << "\n";
    return 1;
  }
  return 0;
}
