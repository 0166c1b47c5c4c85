// SPDX-License-Identifier: Apache-2.0
// The worker's configuration: defaults, file (protobuf text format), checks. Plain values; the main
// thread.
#pragma once

#include <cstdint>
#include <string>

#include "pipeline/base/status.h"
#include "pipeline/data/job.h"

namespace siftd {

// Meaning, unit, range and default of each field: proto/siftd/v1/config.proto.
struct WorkerConfig {
  std::string endpoint = "tcp://127.0.0.1:0";
  std::string port_file;
  std::string name;
  std::string job;
  bool insecure_plaintext = false;
  std::string key_file;
  std::string client_keys;

  std::string backend = "jit";
  std::string python_factory;
  std::string python = "python3";
  std::string artifact;
  bool allow_artifact_upload = false;
  std::string artifact_sha256;
  std::string device = "cpu";
  std::uint32_t lanes = 1;
  std::uint32_t threads = 0;  // 0: cores / lanes
  bool refuse_non_finite_weights = true;

  std::uint32_t score_batch_rows = 512;
  std::string score_dtype = "float32";
  std::uint32_t score_resolution = 0;  // 0: images as they come
  bool score_optimize = false;
  std::uint32_t max_batch_age_ms = 5;
  std::uint32_t max_inflight = 64;
  std::uint32_t graph_threads = 1;

  std::uint64_t budget_bytes = 512ull << 20;
  std::uint64_t max_batch_bytes = 64ull << 20;
  std::uint64_t max_frame_bytes = 256ull << 20;
  std::uint64_t max_model_bytes = 16ull << 30;
  std::uint32_t max_rows = 65536;
  std::uint32_t loader_window = 8;
  std::uint32_t max_peers = 4096;
  std::uint32_t max_hellos = 200;
  std::uint32_t max_breaches = 16;

  std::uint32_t heartbeat_ms = 1000;
  std::uint32_t liveness_ms = 5000;
  std::uint32_t score_deadline_ms = 60000;
  std::uint32_t drain_ms = 10000;

  PolicyOptions policy;

  std::string http;
  bool http_public = false;
  std::string log_level = "info";
  std::string log_format = "text";
  std::string log_file;

  // The message names field, value and allowed range.
  Status Validate() const;
};

// Sets the fields that the text names and leaves the others. Errors give line:column and field;
// unknown fields are refused. `source` names the text in errors.
Status ParseConfig(const std::string& text, const std::string& source, WorkerConfig* config);
Status ReadConfigFile(const std::string& path, WorkerConfig* config);

// Errors of the key files that `config` names, as a worker would find them at its start.
Status CheckKeyFiles(const WorkerConfig& config);

// Every field in text format, as ParseConfig reads it.
std::string ConfigText(const WorkerConfig& config);

}  // namespace siftd
