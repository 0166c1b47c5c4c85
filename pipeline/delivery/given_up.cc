// SPDX-License-Identifier: Apache-2.0
#include "pipeline/delivery/given_up.h"

namespace siftd {

void GivenUp::Add(const BatchKey& key, MonoTime sent) {
  if (!sent_.insert_or_assign(key, sent).second) return;
  order_.push_back(key);
  while (order_.size() > kMost) {
    sent_.erase(order_.front());
    order_.pop_front();
  }
}

std::optional<MonoTime> GivenUp::Take(const BatchKey& key) {
  const auto found = sent_.find(key);
  if (found == sent_.end()) return std::nullopt;
  const MonoTime sent = found->second;
  sent_.erase(found);
  return sent;
}

}  // namespace siftd
