// SPDX-License-Identifier: Apache-2.0
// EventLog: what a process of the fault suite saw, one JSON object per line. A line is one write,
// so it is there whole however the process ends. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/batch_key.h"

namespace siftd::fault {

// {"event": name, "t": seconds of the monotonic clock, ...}
class Event {
 public:
  explicit Event(std::string_view name);
  Event& Put(std::string_view field, std::uint64_t value);
  Event& Put(std::string_view field, std::string_view text);
  Event& Put(std::string_view field, const BatchKey& key);  // [loader, pass, seq]
  Event& Put(std::string_view field, const std::vector<std::uint64_t>& values);
  // `json`: a value, written as it is.
  Event& PutJson(std::string_view field, std::string_view json);

  std::string Line() const { return text_ + "}\n"; }

 private:
  std::string text_;
};

std::string ToJson(const BatchKey& key);
std::string ToJson(const std::vector<std::uint64_t>& values);

class EventLog {
 public:
  // Appends to `path`; empty: nothing is written.
  explicit EventLog(const std::string& path);
  ~EventLog();
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  void Write(const Event& event) const;
  void Error(const Status& status) const;

 private:
  int fd_ = -1;
};

}  // namespace siftd::fault
