// SPDX-License-Identifier: Apache-2.0
// How `siftd` ends. Documented in its --help.
#pragma once

namespace siftd {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,
  kExitUsage = 2,
  kExitConfig = 3,
  kExitUnreachable = 4
};

}  // namespace siftd
