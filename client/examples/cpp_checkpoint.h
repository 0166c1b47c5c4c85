// SPDX-License-Identifier: Apache-2.0
// Checkpoints of the C++ trainer: a folder per checkpoint, made whole or not at all, with module,
// optimizer and what siftd's trainer has trained. One thread.
#pragma once

#include <torch/optim.h>
#include <torch/script.h>
#include <torch/serialize.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <unordered_map>

#include "siftd/state_file.h"

// FOLDER/step-N with the highest N; empty: there is none.
inline std::filesystem::path NewestCheckpoint(const std::string& folder) {
  std::filesystem::path newest;
  std::uint64_t most = 0;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("step-", 0) != 0) continue;
    const std::uint64_t step = std::strtoull(name.c_str() + 5, nullptr, 10);
    if (newest.empty() || step > most) newest = entry.path(), most = step;
  }
  return newest;
}

inline siftd::Status SaveCheckpoint(const std::string& folder, const siftd::TrainerState& state,
                                    const torch::jit::Module& module,
                                    const torch::optim::Optimizer& optimizer) {
  const std::filesystem::path partial = std::filesystem::path(folder) / ".partial";
  std::filesystem::remove_all(partial);
  std::filesystem::create_directories(partial);
  module.save((partial / "module.pt").string());
  torch::save(optimizer, (partial / "optimizer.pt").string());
  SIFTD_RETURN_IF_ERROR(siftd::SaveState(state, (partial / "state.siftd").string()));
  const auto whole = std::filesystem::path(folder) / ("step-" + std::to_string(state.steps));
  std::filesystem::remove_all(whole);
  std::filesystem::rename(partial, whole);
  return siftd::OkStatus();
}

// Fills module and optimizer; the state is for TrainerOptions::resume.
inline siftd::Result<siftd::TrainerState> LoadCheckpoint(const std::filesystem::path& checkpoint,
                                                         torch::jit::Module& module,
                                                         torch::optim::Optimizer& optimizer) {
  const torch::NoGradGuard no_grad;
  const torch::jit::Module saved = torch::jit::load((checkpoint / "module.pt").string());
  std::unordered_map<std::string, at::Tensor> tensors;
  for (const auto& p : saved.named_parameters()) tensors.emplace(p.name, p.value);
  for (const auto& b : saved.named_buffers()) tensors.emplace(b.name, b.value);
  for (const auto& p : module.named_parameters()) p.value.copy_(tensors.at(p.name));
  for (const auto& b : module.named_buffers()) b.value.copy_(tensors.at(b.name));
  torch::load(optimizer, (checkpoint / "optimizer.pt").string());
  return siftd::LoadState((checkpoint / "state.siftd").string());
}
