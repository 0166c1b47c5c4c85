// SPDX-License-Identifier: Apache-2.0
// The messages of the wire protocol as plain values, field for field those of
// proto/siftd/v1/wire.proto, whose comments say what each means. pipeline/wire turns them to frames
// and back. Values; any thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "pipeline/base/frame.h"
#include "pipeline/data/artifact.h"
#include "pipeline/data/batch_key.h"
#include "pipeline/data/decision.h"
#include "pipeline/data/job.h"
#include "pipeline/data/tensor.h"

namespace siftd {

enum class Role : std::uint8_t {
  kUnspecified = 0,
  kLoader = 1,
  kTrainer = 2,
  kPublisher = 3,
  kMonitor = 4
};
// "loader"
constexpr const char* RoleName(Role role) {
  switch (role) {
    case Role::kLoader:
      return "loader";
    case Role::kTrainer:
      return "trainer";
    case Role::kPublisher:
      return "publisher";
    default:
      return "monitor";
  }
}

enum class ReturnReason : std::uint8_t {
  kUnspecified = 0,
  kDrain = 1,
  kRankUnreachable = 2,
  kLaneHung = 3,
  kDeadline = 4
};
enum class ModelState : std::uint8_t {
  kUnspecified = 0,
  kReceiving = 1,
  kApplied = 2,
  kRefused = 3
};
enum class GoodbyeReason : std::uint8_t { kUnspecified = 0, kDone = 1, kLeaving = 2 };

// A process that finds its seat taken by a later one goes above it, as long as that is below this.
inline constexpr std::uint64_t kMaxIncarnation = std::uint64_t{1} << 62;

// Half-open interval of decided seq of one (loader, pass).
struct DecidedInterval {
  std::uint32_t loader = 0;
  std::uint64_t pass = 0;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  friend bool operator==(const DecidedInterval&, const DecidedInterval&) = default;
};

struct DecidedSet {
  std::vector<DecidedInterval> intervals;  // ascending (loader, pass, begin), disjoint
  std::vector<std::uint64_t> next_pass;    // by loader; a lower pass is closed
};

struct Fingerprint {
  std::uint64_t data_size = 0;
  std::uint64_t batch_size = 0;
  std::uint64_t seed = 0;
  friend bool operator==(const Fingerprint&, const Fingerprint&) = default;
};

struct Hello {
  SessionId session;
  std::uint32_t protocol_min = 1;
  std::uint32_t protocol_max = 1;
  Role role = Role::kUnspecified;
  std::string job;
  std::string name;
  std::uint64_t run = 0;
  std::uint32_t rank = 0;
  std::uint32_t world = 0;
  bool has_job_spec = false;
  JobSpec job_spec;
  DecidedSet decided;
  std::uint32_t loader_index = 0;
  std::uint32_t loader_count = 0;
  std::vector<TensorSpec> signature;
  std::uint64_t max_batch_bytes = 0;
  Fingerprint fingerprint;
};

struct Welcome {
  SessionId session;
  std::uint32_t protocol = 1;
  std::uint64_t worker_incarnation = 0;
  std::string worker_name;
  std::uint32_t heartbeat_ms = 0;
  std::uint32_t liveness_ms = 0;
  std::uint64_t max_frame_bytes = 0;
  std::uint64_t max_batch_bytes = 0;
  std::uint32_t max_rows = 0;
  std::uint64_t run = 0;
  std::uint64_t model_version = 0;
  bool needs_artifact = false;
  bool artifact_upload = false;
  std::string artifact_sha256;
};

struct Credit {
  SessionId session;
  std::uint64_t batches = 0;  // cumulative
  std::uint64_t bytes = 0;    // cumulative
};

struct Candidates {
  SessionId session;
  std::uint64_t run = 0;
  BatchKey key;
  std::uint32_t epoch = 0;
  std::uint32_t attempt = 0;
  std::vector<std::uint64_t> sample_id;   // [n]
  std::vector<std::uint32_t> occurrence;  // [n] or empty
  std::vector<Tensor> tensors;            // each [n, ...]
  std::vector<float> prior_score;         // [n] or empty
  std::uint64_t trainer_step = 0;
  bool suspect = false;
  bool unscored = false;
  std::uint64_t required_version = 0;  // of the model, and of its history; 0 = any
};

struct Selected {
  SessionId session;
  std::uint64_t run = 0;
  BatchKey key;
  std::uint32_t epoch = 0;
  Decision decision;
  std::vector<std::uint64_t> sample_id;  // [k]
  std::vector<Tensor> tensors;           // each [k, ...]; none when k == 0
};

struct Verdict {
  SessionId session;
  std::uint64_t run = 0;
  BatchKey key;
  std::uint32_t epoch = 0;
  Decision decision;
};

struct Ack {
  SessionId session;
  std::uint64_t run = 0;
  std::vector<BatchKey> keys;
  std::vector<std::uint32_t> kept;  // per key
};

struct Settled {
  SessionId session;
  std::uint64_t run = 0;
  std::vector<BatchKey> keys;
  std::vector<std::uint32_t> kept;  // per key
  std::vector<std::uint32_t> rows;  // per key, or empty: of `score`
  std::vector<float> score;         // of the keys, back to back
};

struct Return {
  SessionId session;
  std::uint64_t run = 0;
  std::vector<BatchKey> keys;
  ReturnReason reason = ReturnReason::kUnspecified;
};

struct EpochEnd {
  SessionId session;
  std::uint64_t run = 0;
  std::uint32_t loader = 0;
  std::uint64_t pass = 0;
  std::uint32_t epoch = 0;
  std::uint64_t batches = 0;
  bool final = false;
};

struct EpochAck {
  SessionId session;
  std::uint64_t run = 0;
  std::uint32_t loader = 0;
  std::uint64_t pass = 0;
};

struct PositionRequest {
  SessionId session;
  std::uint64_t run = 0;
  std::uint32_t loader = 0;
};

struct Position {
  SessionId session;
  std::uint64_t run = 0;
  std::uint32_t loader = 0;
  DecidedSet decided;
  std::uint32_t world = 1;
  bool repeat = false;
};

struct ModelBegin {
  SessionId session;
  std::uint64_t run = 0;
  std::uint64_t version = 0;
  std::uint64_t step = 0;
  ModelKind kind = ModelKind::kUnspecified;
  std::vector<TensorSpec> manifest;  // entries back to back, in this order
  std::uint64_t total_bytes = 0;
  std::uint32_t chunk_bytes = 0;
  std::uint32_t chunks = 0;
  std::string sha256;  // 32 bytes
  std::vector<float> history;
};

struct ModelChunk {
  SessionId session;
  std::uint64_t run = 0;
  std::uint64_t version = 0;
  std::uint32_t index = 0;
  std::uint32_t crc32 = 0;
  Frame bytes;
};

struct ModelCommit {
  SessionId session;
  std::uint64_t run = 0;
  std::uint64_t version = 0;
};

struct ModelAck {
  SessionId session;
  std::uint64_t run = 0;
  std::uint64_t version = 0;
  ModelState state = ModelState::kUnspecified;
  std::uint32_t chunks = 0;
  ErrorCode code = ErrorCode::kNone;
  std::string text;
};

struct StatusRequest {
  SessionId session;
};

struct PeerStatus {
  Role role = Role::kUnspecified;
  std::string name;
  std::uint32_t index = 0;
  std::uint64_t session_counter = 0;
  std::uint64_t credit_batches = 0;
  double silent_seconds = 0;
};

struct StageStatus {
  std::string stage;
  std::uint64_t batches = 0;
  double busy_seconds = 0;
  double wait_seconds = 0;
  std::uint64_t queued = 0;
};

struct StatusReply {
  SessionId session;
  std::string worker_name;
  std::string version;
  std::uint64_t worker_incarnation = 0;
  std::string job;
  std::uint64_t run = 0;
  Mode mode = Mode::kUnspecified;
  std::string policy;
  std::string device;
  bool ready = false;
  bool draining = false;
  std::string not_ready_reason;
  double uptime_seconds = 0;
  std::uint64_t model_version = 0;
  std::uint64_t model_step = 0;
  double model_age_seconds = 0;
  std::uint64_t trainer_step = 0;
  std::uint64_t candidates = 0;
  std::uint64_t kept = 0;
  std::uint64_t dropped = 0;
  std::uint64_t unsifted = 0;
  std::uint64_t rejected_batches = 0;
  std::uint64_t decided_batches = 0;
  double rows_per_second = 0;
  std::uint64_t held_batches = 0;
  std::uint64_t held_bytes = 0;
  std::uint64_t budget_bytes = 0;
  std::uint64_t non_finite_rows = 0;
  std::uint64_t model_refused = 0;
  std::uint64_t duplicates = 0;
  std::uint64_t scored = 0;
  std::vector<StageStatus> stages;
  std::vector<PeerStatus> peers;
  std::map<std::string, std::uint64_t> errors;
};

struct Heartbeat {
  SessionId session;
  std::uint64_t run = 0;
  std::uint64_t step = 0;
  std::uint64_t decided = 0;
  std::uint64_t oldest_lease_ms = 0;
  std::uint64_t history_rows = 0;
};

struct Drain {
  SessionId session;
  std::string reason;
};

struct Goodbye {
  SessionId session;
  GoodbyeReason reason = GoodbyeReason::kUnspecified;
  std::uint64_t run = 0;
};

struct ErrorMessage {
  SessionId session;
  ErrorCode code = ErrorCode::kNone;
  std::string text;
  std::string hint;
  std::uint64_t current = 0;
  bool has_key = false;
  BatchKey key;
  bool fatal = false;
};

using Message =
    std::variant<Hello, Welcome, Credit, Candidates, Selected, Verdict, Ack, Settled, Return,
                 EpochEnd, EpochAck, PositionRequest, Position, ModelBegin, ModelChunk, ModelCommit,
                 ModelAck, StatusRequest, StatusReply, Heartbeat, Drain, Goodbye, ErrorMessage>;

}  // namespace siftd
