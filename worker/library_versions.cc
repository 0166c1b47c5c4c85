// SPDX-License-Identifier: Apache-2.0
#include "worker/library_versions.h"

#include <google/protobuf/stubs/common.h>
#include <httplib.h>
#include <spdlog/version.h>

#include <CLI/Version.hpp>

#include "pipeline/graph/tbb_version.h"
#include "pipeline/model/device.h"
#include "pipeline/net/zmq_version.h"
#include "pipeline/wire/library_versions.h"
#include "worker/version.h"

namespace siftd {

std::string LibraryVersions() {
  const auto line = [](const std::string& name, const std::string& version) {
    return name + std::string(name.size() < 16 ? 16 - name.size() : 1, ' ') + version + "\n";
  };
  const std::string spdlog = std::to_string(SPDLOG_VER_MAJOR) + "." +
                             std::to_string(SPDLOG_VER_MINOR) + "." +
                             std::to_string(SPDLOG_VER_PATCH);
  return line("siftd", kVersion) + line("protocol", "1") + line("LibTorch", TorchVersion()) +
         line("oneTBB", TbbVersion()) + line("libzmq", ZmqVersion()) +
         line("protobuf", google::protobuf::internal::VersionString(GOOGLE_PROTOBUF_VERSION)) +
         line("libsodium", SodiumVersion()) + line("zlib", ZlibVersion()) + line("spdlog", spdlog) +
         line("prometheus-cpp", PROMETHEUS_CPP_VERSION) + line("cpp-httplib", CPPHTTPLIB_VERSION) +
         line("CLI11", CLI11_VERSION) + line("compiler", __VERSION__);
}

}  // namespace siftd
