// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/epoch_book.h"

#include <algorithm>

namespace siftd {
namespace {

constexpr std::size_t kNamedLoaders = 4;

}  // namespace

EpochBook::EpochBook(std::uint32_t loader_count, std::uint32_t rank, std::uint32_t world,
                     bool lockstep)
    : lockstep_(lockstep) {
  for (std::uint64_t l = rank; l < loader_count; l += world)
    loaders_.push_back(static_cast<std::uint32_t>(l));
}

void EpochBook::Record(const EpochEnd& end) {
  // In lockstep a loader is in one pass only.
  if (lockstep_) {
    const auto first = ends_.lower_bound({end.loader, 0});
    if (first != ends_.end() && first->first.first == end.loader) ends_.erase(first);
  }
  ends_[{end.loader, end.pass}] = end;
}

std::optional<EpochBook::Completed> EpochBook::TakeCompleted(const DecidedKeys& decided) {
  Completed completed;
  if (lockstep_) {
    if (ends_.empty() || ends_.size() + final_.size() < loaders_.size()) return std::nullopt;
    for (const auto& [where, end] : ends_) {
      if (!decided.Complete(end.loader, end.pass, end.batches)) return std::nullopt;
    }
    for (const auto& [where, end] : std::exchange(ends_, {})) completed.passes.push_back(end);
  } else {
    const auto it = std::find_if(ends_.begin(), ends_.end(), [&](const auto& e) {
      return decided.Complete(e.second.loader, e.second.pass, e.second.batches);
    });
    if (it == ends_.end()) return std::nullopt;
    completed.passes.push_back(it->second);
    ends_.erase(it);
  }
  for (const EpochEnd& end : completed.passes) {
    completed.epoch = std::max(completed.epoch, end.epoch);
    if (end.final) final_.insert(end.loader);
  }
  return completed;
}

std::string EpochBook::Missing(const DecidedKeys& decided) const {
  std::string text;
  std::size_t named = 0;
  std::size_t more = 0;
  for (const std::uint32_t loader : loaders_) {
    if (final_.contains(loader)) continue;
    std::string line;
    const auto it = ends_.lower_bound({loader, 0});
    if (it == ends_.end() || it->first.first != loader) {
      line = "loader " + std::to_string(loader) + " has not ended its pass";
    } else if (const EpochEnd& end = it->second; !decided.Complete(loader, end.pass, end.batches)) {
      line = "loader " + std::to_string(loader) + ": " +
             std::to_string(decided.CountBelow(loader, end.pass, end.batches)) + " of " +
             std::to_string(end.batches) + " batches of pass " + std::to_string(end.pass) +
             " decided";
    } else {
      continue;
    }
    if (named++ < kNamedLoaders) {
      text += (text.empty() ? "" : "; ") + line;
    } else {
      ++more;
    }
  }
  if (more > 0) text += "; and " + std::to_string(more) + " more";
  return text;
}

}  // namespace siftd
