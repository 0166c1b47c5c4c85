// SPDX-License-Identifier: Apache-2.0
#include "pipeline/data/peer_rights.h"

namespace siftd {

std::string RoleNames(RoleSet roles) {
  std::string names;
  for (const Role role : {Role::kLoader, Role::kTrainer, Role::kPublisher, Role::kMonitor}) {
    if ((roles & RoleBit(role)) != 0)
      names += (names.empty() ? "" : ", ") + std::string(RoleName(role));
  }
  return names.empty() ? "none" : names;
}

}  // namespace siftd
