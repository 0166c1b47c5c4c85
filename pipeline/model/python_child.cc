// SPDX-License-Identifier: Apache-2.0
#include "pipeline/model/python_child.h"

#include <cstdio>
#include <utility>

namespace siftd {

using python_frames::CheckReply;
using python_frames::Header;
using python_frames::Request;
using python_frames::Type;

namespace {

constexpr Duration kLastWords = std::chrono::seconds(2);  // to end by itself, so that we learn how

std::string SecondsText(Duration d) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g s", Seconds(d));
  return text;
}

Status WrongReply() { return DataLoss("an answer of the wrong type"); }

}  // namespace

Result<std::unique_ptr<PythonChild>> PythonChild::Spawn(const PythonChildOptions& options,
                                                        int stop_fd) {
  // -u: what the user's code prints is not lost when the process is ended.
  SIFTD_ASSIGN_OR_RETURN(
      auto process,
      ChildProcess::Spawn(
          {options.python, "-u", "-m", "siftd._scorer.child", "--factory", options.factory,
           "--device", options.device, "--threads", std::to_string(options.threads),
           "--score-dtype", options.cost.bf16 ? "bf16" : "float32", "--score-resolution",
           std::to_string(options.cost.resolution)},
          stop_fd));
  return std::unique_ptr<PythonChild>(new PythonChild(std::move(process)));
}

PythonChild::PythonChild(std::unique_ptr<ChildProcess> process)
    : process_(std::move(process)), pid_(process_->pid()) {}

Status PythonChild::Gone(const Status& why, Duration timeout) {
  if (why.code() == Code::kCancelled) return why;
  std::string how;
  if (process_ == nullptr) {
    how = "is gone";
  } else if (why.code() == Code::kDeadlineExceeded) {
    process_->Kill({});
    how = "gave no answer within " + SecondsText(timeout) + " and was killed";
  } else if (why.code() == Code::kUnavailable) {
    how = process_->Kill(kLastWords);
  } else {
    process_->Kill({});
    how = "sent " + why.message() + ", and was killed";
  }
  process_.reset();
  const bool late = why.code() == Code::kDeadlineExceeded;
  return {late ? Code::kDeadlineExceeded : Code::kUnavailable,
          "the scorer process " + std::to_string(pid_) + " " + how};
}

Result<Header> PythonChild::Exchange(const Request* request, std::size_t scores_bytes,
                                     MonoTime deadline) {
  if (process_ == nullptr) return Unavailable("");
  if (request != nullptr) {
    std::vector<std::span<const std::uint8_t>> parts{
        {reinterpret_cast<const std::uint8_t*>(request->head.data()), request->head.size()}};
    parts.insert(parts.end(), request->payload.begin(), request->payload.end());
    SIFTD_RETURN_IF_ERROR(process_->Write(parts, deadline));
  }
  Header header;
  SIFTD_RETURN_IF_ERROR(process_->Read(&header, sizeof(header), deadline));
  SIFTD_ASSIGN_OR_RETURN(const Type type, CheckReply(header, scores_bytes));
  if (type != Type::kError) return header;
  std::string text(header.body_bytes, '\0');
  SIFTD_RETURN_IF_ERROR(process_->Read(text.data(), text.size(), deadline));
  return Internal(std::move(text));
}

Result<PythonReady> PythonChild::AwaitReady(Duration timeout) {
  const MonoTime deadline = Now() + timeout;
  const auto header = Exchange(nullptr, 0, deadline);
  Status status = header.status();
  if (header.ok() && Type{header->type} != Type::kReady) status = WrongReply();
  PythonReady ready;
  if (status.ok()) {
    ready.sha256.resize(python_frames::kDigestBytes);
    ready.manifest.resize(header->body_bytes - python_frames::kDigestBytes);
    status = process_->Read(ready.sha256.data(), ready.sha256.size(), deadline);
  }
  if (status.ok()) status = process_->Read(ready.manifest.data(), ready.manifest.size(), deadline);
  if (status.ok()) return ready;
  return status.code() == Code::kInternal ? status : Gone(status, timeout);
}

Status PythonChild::Update(const Request& request, Duration timeout) {
  const auto header = Exchange(&request, 0, Now() + timeout);
  Status status = header.status();
  if (header.ok() && Type{header->type} != Type::kOk) status = WrongReply();
  return status.ok() || status.code() == Code::kInternal ? status : Gone(status, timeout);
}

Result<std::vector<float>> PythonChild::Score(const Request& request, std::size_t values,
                                              Duration timeout) {
  const MonoTime deadline = Now() + timeout;
  const auto header = Exchange(&request, values * sizeof(float), deadline);
  Status status = header.status();
  if (header.ok() && Type{header->type} != Type::kScores) status = WrongReply();
  std::vector<float> scores;
  if (status.ok()) {
    scores.resize(values);
    status = process_->Read(scores.data(), values * sizeof(float), deadline);
  }
  if (status.ok()) return scores;
  return status.code() == Code::kInternal ? status : Gone(status, timeout);
}

}  // namespace siftd
