// SPDX-License-Identifier: Apache-2.0
#include "tests/fault/peers/event_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "pipeline/base/clock.h"

namespace siftd::fault {
namespace {

std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + '"';
}

}  // namespace

std::string ToJson(const BatchKey& key) {
  return ToJson(std::vector<std::uint64_t>{key.loader, key.pass, key.seq});
}

std::string ToJson(const std::vector<std::uint64_t>& values) {
  std::string out = "[";
  for (const std::uint64_t v : values) out += (out.size() > 1 ? "," : "") + std::to_string(v);
  return out + "]";
}

Event::Event(std::string_view name) {
  char t[32];
  std::snprintf(t, sizeof(t), "%.6f", Seconds(Now().time_since_epoch()));
  text_ = "{\"event\":" + Quoted(name) + ",\"t\":" + t;
}

Event& Event::PutJson(std::string_view field, std::string_view json) {
  text_ += "," + Quoted(field) + ":";
  text_ += json;
  return *this;
}

Event& Event::Put(std::string_view field, std::uint64_t value) {
  return PutJson(field, std::to_string(value));
}

Event& Event::Put(std::string_view field, std::string_view text) {
  return PutJson(field, Quoted(text));
}

Event& Event::Put(std::string_view field, const BatchKey& key) {
  return PutJson(field, ToJson(key));
}

Event& Event::Put(std::string_view field, const std::vector<std::uint64_t>& values) {
  return PutJson(field, ToJson(values));
}

EventLog::EventLog(const std::string& path) {
  if (path.empty()) return;
  fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ >= 0) return;
  std::perror(path.c_str());
  std::_Exit(2);
}

EventLog::~EventLog() {
  if (fd_ >= 0) close(fd_);
}

void EventLog::Write(const Event& event) const {
  const std::string line = event.Line();
  if (fd_ >= 0 && write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    std::perror("event log");
}

void EventLog::Error(const Status& status) const {
  Write(Event("error").Put("text", status.ToString()));
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
}

}  // namespace siftd::fault
