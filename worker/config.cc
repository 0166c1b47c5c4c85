// SPDX-License-Identifier: Apache-2.0
#include "worker/config.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <fstream>
#include <sstream>

#include "pipeline/net/key_files.h"
#include "pipeline/net/key_ring.h"
#include "pipeline/select/selector.h"
#include "pipeline/wire/convert.h"
#include "siftd/v1/config.pb.h"

namespace siftd {
namespace {

// Every field that is a plain value, once: read, written and shown by the same list.
// clang-format off
#define SIFTD_CONFIG_FIELDS(X)                                                                \
  X(endpoint) X(port_file) X(name) X(job) X(insecure_plaintext) X(key_file) X(client_keys)    \
  X(backend) X(python_factory) X(python)                                                      \
  X(artifact) X(allow_artifact_upload) X(artifact_sha256) X(device) X(lanes) X(threads)       \
  X(refuse_non_finite_weights) X(score_batch_rows) X(score_dtype) X(score_resolution)         \
  X(score_optimize) X(max_batch_age_ms)                                                       \
  X(max_inflight) X(graph_threads) X(budget_bytes) X(max_batch_bytes)                         \
  X(max_frame_bytes) X(max_model_bytes) X(max_rows) X(loader_window)                          \
  X(max_peers) X(max_hellos) X(max_breaches)                                                  \
  X(heartbeat_ms) X(liveness_ms) X(score_deadline_ms) X(drain_ms)                             \
  X(http) X(http_public) X(log_level) X(log_format) X(log_file)
// clang-format on

class Collector final : public google::protobuf::io::ErrorCollector {
 public:
  explicit Collector(std::string source) : source_(std::move(source)) {}
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    if (!text_.empty()) text_ += "\n";
    text_ += source_ + ":" + std::to_string(line + 1) + ":" + std::to_string(column + 1) + ": " +
             message;
  }
  const std::string& text() const { return text_; }

 private:
  const std::string source_;
  std::string text_;
};

Status InRange(const char* field, std::uint64_t value, std::uint64_t least, std::uint64_t most) {
  if (value >= least && value <= most) return OkStatus();
  return InvalidArgument(std::string(field) + " is " + std::to_string(value) + "; allowed: [" +
                         std::to_string(least) + ", " + std::to_string(most) + "]");
}

Status OneOf(const char* field, const std::string& value,
             std::initializer_list<const char*> allowed) {
  std::string list;
  for (const char* a : allowed) {
    if (value == a) return OkStatus();
    list += (list.empty() ? "" : ", ") + std::string(a);
  }
  return InvalidArgument(std::string(field) + " is '" + value + "'; allowed: " + list);
}

// Identifiers with dots between them.
bool IsDottedName(std::string_view text) {
  bool first = true;  // of an identifier
  for (const char c : text) {
    const bool letter =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0;
    if (c == '.' ? first : !letter && (first || c < '0' || c > '9')) return false;
    first = c == '.';
  }
  return !first;
}

Status CheckOptimize(const WorkerConfig& c) {
  const std::string only = "score_optimize is true; allowed: false with ";
  if (!c.score_optimize) return OkStatus();
  if (c.backend != "jit") return InvalidArgument(only + "backend " + c.backend);
  if (c.device != "cpu") return InvalidArgument(only + "device " + c.device);
  if (c.score_dtype != "float32") return InvalidArgument(only + "score_dtype " + c.score_dtype);
  return OkStatus();
}

Status CheckDoors(const WorkerConfig& c) {
  if (c.key_file.empty() != c.client_keys.empty()) {
    return InvalidArgument("key_file is '" + c.key_file + "' and client_keys '" + c.client_keys +
                           "'; allowed: both, as `siftd keygen worker` makes them, or neither");
  }
  if (!c.key_file.empty() && c.insecure_plaintext)
    return InvalidArgument("insecure_plaintext is true; allowed: false with key_file");
  const bool hex = c.artifact_sha256.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!c.artifact_sha256.empty() && (!hex || c.artifact_sha256.size() != 64)) {
    return InvalidArgument(
        "artifact_sha256 is '" + c.artifact_sha256 +
        "'; allowed: 64 lower-case hexadecimal digits, as sha256sum prints them");
  }
  SIFTD_RETURN_IF_ERROR(InRange("max_peers", c.max_peers, 1, 65536));
  SIFTD_RETURN_IF_ERROR(InRange("max_hellos", c.max_hellos, 1, 1000000));
  return InRange("max_breaches", c.max_breaches, 1, 1000000);
}

// Addresses that this host alone reaches.
bool IsLoopback(const std::string& address) {
  return address.rfind("127.", 0) == 0 || address.rfind("localhost:", 0) == 0 ||
         address.rfind("::1:", 0) == 0 || address.rfind("[::1]:", 0) == 0;
}

Status CheckHttp(const WorkerConfig& c) {
  if (c.http.empty() || c.http_public || IsLoopback(c.http)) return OkStatus();
  return InvalidArgument("http is '" + c.http +
                         "', reachable from other hosts; allowed: a loopback address, or "
                         "http_public: true where others may see the figures");
}

Status CheckBackend(const WorkerConfig& c) {
  SIFTD_RETURN_IF_ERROR(OneOf("backend", c.backend, {"jit", "python"}));
  if (c.backend == "jit") {
    if (c.python_factory.empty()) return OkStatus();
    return InvalidArgument("python_factory is '" + c.python_factory +
                           "'; allowed: only with backend python");
  }
  const std::string_view factory = c.python_factory;
  const std::size_t colon = factory.find(':');
  if (colon == std::string::npos || !IsDottedName(factory.substr(0, colon)) ||
      !IsDottedName(factory.substr(colon + 1))) {
    return InvalidArgument("python_factory is '" + c.python_factory +
                           "'; allowed: module:function, as in 'train.sifting:make_scorer'");
  }
  if (c.python.empty()) return InvalidArgument("python is ''; allowed: a Python interpreter");
  const std::string only =
      "; with backend python the scorer is what python_factory makes; allowed: ";
  if (!c.artifact.empty()) return InvalidArgument("artifact is '" + c.artifact + "'" + only + "''");
  if (c.allow_artifact_upload)
    return InvalidArgument("allow_artifact_upload is true" + only + "false");
  if (!c.artifact_sha256.empty())
    return InvalidArgument("artifact_sha256 is '" + c.artifact_sha256 + "'" + only + "''");
  return OkStatus();
}

}  // namespace

Status WorkerConfig::Validate() const {
  constexpr std::uint64_t kRowsMost = 1u << 20;
  SIFTD_RETURN_IF_ERROR(CheckBackend(*this));
  SIFTD_RETURN_IF_ERROR(CheckDoors(*this));
  SIFTD_RETURN_IF_ERROR(CheckHttp(*this));
  SIFTD_RETURN_IF_ERROR(InRange("lanes", lanes, 1, 64));
  SIFTD_RETURN_IF_ERROR(InRange("threads", threads, 0, 1024));
  SIFTD_RETURN_IF_ERROR(InRange("score_batch_rows", score_batch_rows, 1, kRowsMost));
  SIFTD_RETURN_IF_ERROR(OneOf("score_dtype", score_dtype, {"float32", "bf16"}));
  SIFTD_RETURN_IF_ERROR(CheckOptimize(*this));
  if (score_resolution != 0 && (score_resolution < 8 || score_resolution > 4096)) {
    return InvalidArgument("score_resolution is " + std::to_string(score_resolution) +
                           "; allowed: 0, or [8, 4096]");
  }
  SIFTD_RETURN_IF_ERROR(InRange("max_batch_age_ms", max_batch_age_ms, 0, 10000));
  SIFTD_RETURN_IF_ERROR(InRange("max_inflight", max_inflight, 1, 65536));
  SIFTD_RETURN_IF_ERROR(InRange("graph_threads", graph_threads, 1, 256));
  SIFTD_RETURN_IF_ERROR(InRange("budget_bytes", budget_bytes, 1 << 16, 1ull << 46));
  SIFTD_RETURN_IF_ERROR(InRange("max_batch_bytes", max_batch_bytes, 1024, budget_bytes));
  SIFTD_RETURN_IF_ERROR(InRange("max_frame_bytes", max_frame_bytes, 1 << 16, 1ull << 40));
  SIFTD_RETURN_IF_ERROR(InRange("max_model_bytes", max_model_bytes, 1024, 1ull << 46));
  SIFTD_RETURN_IF_ERROR(InRange("max_rows", max_rows, 1, kRowsMost));
  SIFTD_RETURN_IF_ERROR(InRange("loader_window", loader_window, 1, 4096));
  SIFTD_RETURN_IF_ERROR(InRange("heartbeat_ms", heartbeat_ms, 10, 60000));
  SIFTD_RETURN_IF_ERROR(InRange("liveness_ms", liveness_ms, 2ull * heartbeat_ms + 1, 3600000));
  SIFTD_RETURN_IF_ERROR(InRange("score_deadline_ms", score_deadline_ms, 100, 86400000));
  SIFTD_RETURN_IF_ERROR(InRange("drain_ms", drain_ms, 0, 3600000));
  SIFTD_RETURN_IF_ERROR(OneOf("log_level", log_level, {"debug", "info", "warning", "error"}));
  SIFTD_RETURN_IF_ERROR(OneOf("log_format", log_format, {"text", "json"}));
  if (Status s = siftd::Validate(policy); !s.ok()) return InvalidArgument("policy: " + s.message());
  return OkStatus();
}

Status ParseConfig(const std::string& text, const std::string& source, WorkerConfig* config) {
  v1::WorkerConfig proto;
  google::protobuf::TextFormat::Parser parser;
  Collector errors(source);
  parser.RecordErrorsTo(&errors);
  if (!parser.ParseFromString(text, &proto)) return InvalidArgument(errors.text());
#define SIFTD_TAKE(field) \
  if (proto.has_##field()) config->field = proto.field();
  SIFTD_CONFIG_FIELDS(SIFTD_TAKE)
#undef SIFTD_TAKE
  if (proto.has_policy()) {
    SIFTD_ASSIGN_OR_RETURN(config->policy, wire::From(proto.policy()));
  }
  return OkStatus();
}

Status ReadConfigFile(const std::string& path, WorkerConfig* config) {
  std::ifstream file(path);
  if (!file) return NotFound("cannot read config file '" + path + "'");
  std::stringstream text;
  text << file.rdbuf();
  return ParseConfig(text.str(), path, config);
}

Status CheckKeyFiles(const WorkerConfig& config) {
  if (config.key_file.empty()) return OkStatus();
  SIFTD_RETURN_IF_ERROR(ReadSecretKeyFile(config.key_file).status());
  return KeyRing::Open(config.client_keys).status();
}

std::string ConfigText(const WorkerConfig& config) {
  v1::WorkerConfig proto;
#define SIFTD_PUT(field) proto.set_##field(config.field);
  SIFTD_CONFIG_FIELDS(SIFTD_PUT)
#undef SIFTD_PUT
  wire::To(config.policy, proto.mutable_policy());
  std::string text;
  google::protobuf::TextFormat::PrintToString(proto, &text);
  return text;
}

}  // namespace siftd
