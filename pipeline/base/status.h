// SPDX-License-Identifier: Apache-2.0
// Status and Result: how siftd reports what foreign input or a peer did wrong. Values; any thread.
// Exceptions are for programmer errors only; a Status never aborts.
#pragma once

#include <cassert>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace siftd {

enum class Code {
  kOk = 0,
  kInvalidArgument,  // the caller's value is out of its range, whatever the state
  kNotFound,
  kFailedPrecondition,  // not in this state
  kResourceExhausted,   // a limit or budget
  kUnavailable,         // a peer or device is not there
  kDeadlineExceeded,
  kDataLoss,   // bytes are damaged
  kCancelled,  // closed while waiting
  kInternal,
};

std::string_view CodeName(Code code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  // "INVALID_ARGUMENT: keep is 1.5; allowed: (0, 1]"
  std::string ToString() const;

  friend bool operator==(const Status&, const Status&) = default;

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

inline Status OkStatus() { return {}; }
inline Status InvalidArgument(std::string m) { return {Code::kInvalidArgument, std::move(m)}; }
inline Status NotFound(std::string m) { return {Code::kNotFound, std::move(m)}; }
inline Status FailedPrecondition(std::string m) {
  return {Code::kFailedPrecondition, std::move(m)};
}
inline Status ResourceExhausted(std::string m) { return {Code::kResourceExhausted, std::move(m)}; }
inline Status Unavailable(std::string m) { return {Code::kUnavailable, std::move(m)}; }
inline Status DeadlineExceeded(std::string m) { return {Code::kDeadlineExceeded, std::move(m)}; }
inline Status DataLoss(std::string m) { return {Code::kDataLoss, std::move(m)}; }
inline Status Cancelled(std::string m) { return {Code::kCancelled, std::move(m)}; }
inline Status Internal(std::string m) { return {Code::kInternal, std::move(m)}; }

// A value or the Status that explains its absence.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}                                  // NOLINT
  Result(Status status) : status_(std::move(status)) { assert(!status_.ok()); }  // NOLINT

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  // REQUIRES: ok()
  T& value() & { return assert(ok()), *value_; }
  const T& value() const& { return assert(ok()), *value_; }
  T&& value() && { return assert(ok()), std::move(*value_); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }

 private:
  std::optional<T> value_;
  Status status_;
};

#define SIFTD_CONCAT_INNER_(a, b) a##b
#define SIFTD_CONCAT_(a, b) SIFTD_CONCAT_INNER_(a, b)
#define SIFTD_RETURN_IF_ERROR(expr)                       \
  do {                                                    \
    if (::siftd::Status s_ = (expr); !s_.ok()) return s_; \
  } while (false)
#define SIFTD_ASSIGN_OR_RETURN(lhs, expr) \
  SIFTD_ASSIGN_OR_RETURN_IMPL_(SIFTD_CONCAT_(result_, __LINE__), lhs, expr)
#define SIFTD_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) return tmp.status();                \
  lhs = std::move(tmp).value()

}  // namespace siftd
