// SPDX-License-Identifier: Apache-2.0
#include "siftd/client_io.h"

namespace siftd {

Result<std::vector<std::string>> ResolveAll(const std::vector<std::string>& endpoints) {
  std::vector<std::string> all;
  for (const std::string& endpoint : endpoints) {
    SIFTD_ASSIGN_OR_RETURN(const std::vector<std::string> found, ResolveEndpoint(endpoint));
    all.insert(all.end(), found.begin(), found.end());
  }
  return all;
}

}  // namespace siftd
