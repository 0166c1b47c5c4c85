// SPDX-License-Identifier: Apache-2.0
// KeyRing: the public keys that may connect to a worker, and the roles of each. A key is the file
// FOLDER/ROLE/NAME.key, ROLE being loader, trainer, publisher or monitor; one that lies in several
// of them has all those roles. Open, Refresh: one thread at a time. table, generation: any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/peer_rights.h"

namespace siftd {

class KeyRing {
 public:
  struct Holder {
    std::string name;
    RoleSet roles = 0;
  };
  using Table = std::unordered_map<std::string, Holder>;  // by public key

  // Every file must be sound. Errors name the file and what to do.
  static Result<std::unique_ptr<KeyRing>> Open(const std::string& folder);

  // Reads the folder again if something in it changed; false: nothing did. What is not sound by
  // then counts as not there, and is told in `problems`.
  bool Refresh(std::vector<std::string>* problems);

  std::shared_ptr<const Table> table() const;
  // Grows with each change.
  std::uint64_t generation() const { return generation_; }
  const std::string& folder() const { return folder_; }

 private:
  explicit KeyRing(std::string folder) : folder_(std::move(folder)) {}
  void Publish(Table table);

  const std::string folder_;
  std::string seen_;  // names, times and modes of what was read last
  mutable std::mutex mu_;
  std::shared_ptr<const Table> table_;  // guarded by mu_
  std::atomic<std::uint64_t> generation_{0};
};

}  // namespace siftd
