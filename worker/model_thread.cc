// SPDX-License-Identifier: Apache-2.0
#include "worker/model_thread.h"

#include <utility>

#include "pipeline/base/hex.h"
#include "pipeline/model/artifact_file.h"
#include "pipeline/wire/artifact_codec.h"
#include "pipeline/wire/digest.h"

namespace siftd {
namespace {

Result<std::string> LoadArchive(const Frame& archive, Scorer* scorer, std::string* note) {
  SIFTD_ASSIGN_OR_RETURN(const std::string bytes, ReadManifest(archive));
  SIFTD_ASSIGN_OR_RETURN(ArtifactManifest manifest, ParseManifest(bytes));
  if (manifest.torch_version.rfind(TorchVersion(), 0) != 0) {
    *note = "the scorer was exported by PyTorch " + manifest.torch_version + "; this worker has " +
            TorchVersion();
  }
  SIFTD_RETURN_IF_ERROR(scorer->LoadArtifact(archive, std::move(manifest)));
  return Hex(Sha256(archive.bytes()));
}

}  // namespace

Result<std::string> LoadArtifactFile(const std::string& path, const std::string& pinned,
                                     Scorer* scorer, std::string* note) {
  SIFTD_ASSIGN_OR_RETURN(const Frame archive, ReadFile(path));
  // Before its code is looked at.
  if (const std::string digest = pinned.empty() ? "" : Hex(Sha256(archive.bytes()));
      digest != pinned) {
    return InvalidArgument("artifact '" + path + "': its SHA-256 is " + digest +
                           "; allowed by artifact_sha256: " + pinned);
  }
  auto sha256 = LoadArchive(archive, scorer, note);
  if (!sha256.ok())
    return Status(sha256.status().code(), "artifact '" + path + "': " + sha256.status().message());
  return sha256;
}

ModelThread::ModelThread(std::uint64_t max_model_bytes, Scorer* scorer,
                         std::function<void(ModelResult)> done)
    : scorer_(scorer),
      done_(std::move(done)),
      staging_(max_model_bytes),
      thread_("siftd-model", [this] { Run(); }) {}

ModelThread::~ModelThread() {
  queue_.Close();
  thread_.Join();
}

bool ModelThread::Post(Message work) {
  Work item(std::move(work));
  return queue_.TryPush(item) == QueueResult::kOk;
}

void ModelThread::Discard() {
  Work item(DiscardToken{});
  // A full queue is drained by a thread that never waits for this one.
  [[maybe_unused]] const QueueResult pushed = queue_.Push(item, Now() + std::chrono::seconds(10));
}

void ModelThread::Run() {
  Work work;
  while (queue_.Pop(&work, MonoTime::max()) == QueueResult::kOk) {
    if (std::holds_alternative<DiscardToken>(work)) {
      staging_.Discard();
      continue;
    }
    const Message& message = std::get<Message>(work);
    if (const auto* begin = std::get_if<ModelBegin>(&message)) Handle(*begin);
    if (const auto* chunk = std::get_if<ModelChunk>(&message)) Handle(*chunk);
    if (const auto* commit = std::get_if<ModelCommit>(&message)) Handle(*commit);
  }
}

void ModelThread::Handle(const ModelBegin& begin) {
  if (const auto refusal = staging_.Begin(begin)) Answer(begin.run, begin.version, refusal, {});
}

void ModelThread::Handle(const ModelChunk& chunk) {
  ModelResult result;
  const auto refusal = staging_.Chunk(chunk);
  result.ack.state = ModelState::kReceiving;
  Answer(chunk.run, chunk.version, refusal, std::move(result));
}

void ModelThread::Handle(const ModelCommit& commit) {
  ModelResult result;
  WeightsVersion version;
  auto refusal = staging_.Commit(commit, &version);
  if (!refusal) refusal = Apply(version, &result);
  result.ack.state = ModelState::kApplied;
  Answer(commit.run, commit.version, refusal, std::move(result));
}

std::optional<Refusal> ModelThread::Apply(const WeightsVersion& version, ModelResult* result) {
  if (version.kind == ModelKind::kArtifact) {
    std::string note;
    auto sha256 = LoadArchive(version.archive, scorer_, &note);
    if (!sha256.ok()) return Refusal{ErrorCode::kArtifactRefused, sha256.status().message()};
    result->artifact_sha256 = *sha256;
    return std::nullopt;
  }
  if (const auto error = scorer_->Update(version)) return Refusal{error->code, error->text};
  result->step = version.step;
  result->history = version.history;
  return std::nullopt;
}

void ModelThread::Answer(std::uint64_t run, std::uint64_t version,
                         const std::optional<Refusal>& refusal, ModelResult result) {
  result.ack.run = run;
  result.ack.version = version;
  result.ack.chunks = staging_.chunks_received();
  if (refusal) {
    result.ack.state = ModelState::kRefused;
    result.ack.code = refusal->code;
    result.ack.text = refusal->text;
  }
  done_(std::move(result));
}

}  // namespace siftd
