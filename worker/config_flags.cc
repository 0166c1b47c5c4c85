// SPDX-License-Identifier: Apache-2.0
#include "worker/config_flags.h"

namespace siftd {

template <typename T>
void ConfigFlags::Add(CLI::App* command, const std::string& name, T WorkerConfig::*field,
                      const std::string& help) {
  CLI::Option* option = nullptr;
  if constexpr (std::is_same_v<T, bool>) {
    option = command->add_flag(name, flags_.*field, help);
  } else {
    option = command->add_option(name, flags_.*field, help);
  }
  given_.push_back([this, option, field](WorkerConfig* config) {
    if (option->count() > 0) config->*field = flags_.*field;
  });
}

void ConfigFlags::AddSize(CLI::App* command, const std::string& name,
                          std::uint64_t WorkerConfig::*field, const std::string& help) {
  CLI::Option* option =
      command->add_option(name, flags_.*field, help)->transform(CLI::AsSizeValue(false));
  given_.push_back([this, option, field](WorkerConfig* config) {
    if (option->count() > 0) config->*field = flags_.*field;
  });
}

void ConfigFlags::AddTo(CLI::App* c) {
  using W = WorkerConfig;
  c->add_option("--config", config_path_,
                "File in protobuf text format; see configs/ for commented examples");
  c->add_option("--policy", policy_text_, "Policy in text format, e.g. 'uniform { keep: 0.5 }'");
  Add(c, "--endpoint", &W::endpoint, "tcp://ADDRESS:PORT (0 = any free port) or ipc://PATH");
  Add(c, "--port-file", &W::port_file, "Write the bound endpoint here when ready");
  Add(c, "--name", &W::name, "For logs and status");
  Add(c, "--job", &W::job, "Serve only this job");
  Add(c, "--insecure-plaintext", &W::insecure_plaintext,
      "Allow an address that other hosts reach, unencrypted");
  Add(c, "--key-file", &W::key_file,
      "The worker's secret key file (siftd keygen worker): connections are encrypted");
  Add(c, "--client-keys", &W::client_keys, "Folder of the keys that may connect, ROLE/NAME.key");
  Add(c, "--backend", &W::backend, "jit (a scorer archive) or python (a factory of your own)");
  Add(c, "--python-factory", &W::python_factory,
      "module:function that makes the scorer; it runs with this worker's rights");
  Add(c, "--python", &W::python, "Interpreter of backend python; it needs siftd and torch");
  Add(c, "--artifact", &W::artifact, "Scorer archive made by siftd.export_scorer");
  Add(c, "--allow-artifact-upload", &W::allow_artifact_upload,
      "Take the scorer (code) from the publisher");
  Add(c, "--artifact-sha256", &W::artifact_sha256, "Load only the scorer with this SHA-256");
  Add(c, "--device", &W::device, "cpu, cuda or cuda:N");
  Add(c, "--lanes", &W::lanes, "Forwards at a time");
  Add(c, "--threads", &W::threads, "LibTorch threads per lane; 0 = cores / lanes");
  Add(c, "--refuse-non-finite-weights,!--accept-non-finite-weights", &W::refuse_non_finite_weights,
      "Refuse model versions that hold NaN or infinity");
  Add(c, "--score-batch-rows", &W::score_batch_rows, "Rows of one forward at most");
  Add(c, "--score-dtype", &W::score_dtype, "float32, or bf16: cheaper scores, a little less exact");
  Add(c, "--score-resolution", &W::score_resolution,
      "Scale larger image inputs to N x N for scoring; 0 = as they come");
  Add(c, "--score-optimize", &W::score_optimize,
      "Fold and fuse the scorer for this CPU at each version: faster convolutions");
  Add(c, "--max-batch-age-ms", &W::max_batch_age_ms, "A small batch waits this long for others");
  Add(c, "--max-inflight", &W::max_inflight, "Batches in the flow graph at most");
  Add(c, "--graph-threads", &W::graph_threads, "Threads of the flow graph");
  AddSize(c, "--budget-bytes", &W::budget_bytes,
          "Candidates and kept rows held at most, e.g. 512MiB");
  AddSize(c, "--max-batch-bytes", &W::max_batch_bytes, "Largest candidate batch, e.g. 64MiB");
  AddSize(c, "--max-frame-bytes", &W::max_frame_bytes, "Largest tensor or chunk");
  AddSize(c, "--max-model-bytes", &W::max_model_bytes, "Largest model version");
  Add(c, "--max-rows", &W::max_rows, "Rows of one candidate batch at most");
  Add(c, "--loader-window", &W::loader_window, "Batches of a loader granted or held at most");
  Add(c, "--max-peers", &W::max_peers, "Peers in session at most");
  Add(c, "--max-hellos", &W::max_hellos, "Connections a second of one key or address at most");
  Add(c, "--max-breaches", &W::max_breaches, "Breaches of the rules before a connection is cut");
  Add(c, "--heartbeat-ms", &W::heartbeat_ms, "Interval of heartbeats");
  Add(c, "--liveness-ms", &W::liveness_ms, "A silent peer is gone after this");
  Add(c, "--score-deadline-ms", &W::score_deadline_ms, "Undecided batches are returned after this");
  Add(c, "--drain-ms", &W::drain_ms, "Grace time at SIGTERM");
  Add(c, "--http", &W::http, "ADDRESS:PORT of /metrics, /healthz, /readyz; empty = off");
  Add(c, "--http-public", &W::http_public, "Allow an --http address that other hosts reach");
  Add(c, "--log-level", &W::log_level, "debug, info, warning or error");
  Add(c, "--log-format", &W::log_format, "text or json");
  Add(c, "--log-file", &W::log_file, "Log here instead of standard error");
}

Result<WorkerConfig> ConfigFlags::Resolve() const {
  WorkerConfig config;
  if (!config_path_.empty()) SIFTD_RETURN_IF_ERROR(ReadConfigFile(config_path_, &config));
  for (const auto& copy : given_) copy(&config);
  if (!policy_text_.empty()) {
    SIFTD_RETURN_IF_ERROR(ParseConfig("policy { " + policy_text_ + " }", "--policy", &config));
  }
  SIFTD_RETURN_IF_ERROR(config.Validate());
  return config;
}

}  // namespace siftd
