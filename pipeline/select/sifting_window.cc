// SPDX-License-Identifier: Apache-2.0
#include "pipeline/select/sifting_window.h"

namespace siftd {
namespace {
constexpr std::size_t kEpochsRemembered = 8;  // late batches of an older epoch are rare
}

SiftingWindow::SiftingWindow(const ModifierOptions& options, std::uint64_t total_steps)
    : options_(options), total_steps_(total_steps) {}

bool SiftingWindow::InForce(const BatchKey& key, std::uint32_t epoch, std::uint64_t trainer_step) {
  std::uint64_t began = 0;
  if (options_.repeat_delay_per_epoch) {
    began = epoch_began_.try_emplace(epoch, trainer_step).first->second;
    if (epoch_began_.size() > kEpochsRemembered) epoch_began_.erase(epoch_began_.begin());
  }
  if (trainer_step < began + options_.sift_delay) return false;
  if (total_steps_ > 0) {
    const double progress = static_cast<double>(trainer_step) / static_cast<double>(total_steps_);
    if (progress < options_.start || progress >= options_.end) return false;
  }
  // Composer's rule: the last batch of each group of `interrupt` is left alone.
  return options_.interrupt == 0 || (key.seq + 1) % options_.interrupt != 0;
}

}  // namespace siftd
