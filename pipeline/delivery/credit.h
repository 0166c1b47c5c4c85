// SPDX-License-Identifier: Apache-2.0
// The two halves of a session's credit (design rule 6): cumulative counts of batches and payload
// bytes, both sides starting at 0 with the session. Sending needs both above zero, so one message
// may overdraw the bytes. Pure.
#pragma once

#include <algorithm>
#include <cstdint>

namespace siftd {

class CreditSender {
 public:
  // Cumulative, so a repeated or late Credit changes nothing.
  void Granted(std::uint64_t batches, std::uint64_t bytes) {
    granted_batches_ = std::max(granted_batches_, batches);
    granted_bytes_ = std::max(granted_bytes_, bytes);
  }
  bool CanSend() const { return sent_batches_ < granted_batches_ && sent_bytes_ < granted_bytes_; }
  // REQUIRES: CanSend()
  void Sent(std::uint64_t bytes) {
    ++sent_batches_;
    sent_bytes_ += bytes;
  }
  std::uint64_t free_batches() const { return granted_batches_ - sent_batches_; }

 private:
  std::uint64_t granted_batches_ = 0;
  std::uint64_t granted_bytes_ = 0;
  std::uint64_t sent_batches_ = 0;
  std::uint64_t sent_bytes_ = 0;
};

class CreditReceiver {
 public:
  // False: the sender had no credit left.
  [[nodiscard]] bool Received(std::uint64_t bytes) {
    const bool allowed = received_batches_ < granted_batches_ && received_bytes_ < granted_bytes_;
    ++received_batches_;
    received_bytes_ += bytes;
    return allowed;
  }
  // Allows `batches` more than were received so far, each of at most `batch_bytes`; false: that is
  // no more than before.
  bool AllowOutstanding(std::uint64_t batches, std::uint64_t batch_bytes) {
    if (received_batches_ + batches <= granted_batches_) return false;
    granted_batches_ = received_batches_ + batches;
    granted_bytes_ = std::max(granted_bytes_, received_bytes_ + batches * batch_bytes);
    return true;
  }
  std::uint64_t outstanding() const {
    return granted_batches_ > received_batches_ ? granted_batches_ - received_batches_ : 0;
  }
  std::uint64_t outstanding_bytes() const {
    return granted_bytes_ > received_bytes_ ? granted_bytes_ - received_bytes_ : 0;
  }
  std::uint64_t granted_batches() const { return granted_batches_; }
  std::uint64_t granted_bytes() const { return granted_bytes_; }

 private:
  std::uint64_t granted_batches_ = 0;
  std::uint64_t granted_bytes_ = 0;
  std::uint64_t received_batches_ = 0;
  std::uint64_t received_bytes_ = 0;
};

}  // namespace siftd
