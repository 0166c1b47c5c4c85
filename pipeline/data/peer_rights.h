// SPDX-License-Identifier: Apache-2.0
// PeerRights: who a connection is, by its key or its address, and which roles it may take. Value.
#pragma once

#include <cstdint>
#include <string>

#include "pipeline/data/messages.h"

namespace siftd {

// A set of roles, one bit each.
using RoleSet = std::uint8_t;

constexpr RoleSet RoleBit(Role role) {
  return static_cast<RoleSet>(1u << static_cast<unsigned>(role));
}
inline constexpr RoleSet kAllRoles = RoleBit(Role::kLoader) | RoleBit(Role::kTrainer) |
                                     RoleBit(Role::kPublisher) | RoleBit(Role::kMonitor);
// "loader, publisher"; "none"
std::string RoleNames(RoleSet roles);

struct PeerRights {
  std::string key;     // name of its key; empty: it has none
  std::string origin;  // whose share of the limits it uses: key or address; empty: not limited
  RoleSet roles = kAllRoles;

  bool Allows(Role role) const { return (roles & RoleBit(role)) != 0; }
  friend bool operator==(const PeerRights&, const PeerRights&) = default;
};

}  // namespace siftd
