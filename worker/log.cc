// SPDX-License-Identifier: Apache-2.0
#include "worker/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

namespace siftd {
namespace {

// What a peer calls itself must not look like a line of its own, nor move a terminal's cursor.
class PlainText final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& msg, const std::tm& /*time*/,
              spdlog::memory_buf_t& dest) override {
    static constexpr std::string_view kNextLine = "\n    ";
    for (const char c : msg.payload) {
      if (c == '\n') {
        dest.append(kNextLine.data(), kNextLine.data() + kNextLine.size());
      } else {
        const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
        dest.push_back(control && c != '\t' ? '?' : c);
      }
    }
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<PlainText>();
  }
};

// Writes the message as the inside of a JSON string.
class JsonText final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& msg, const std::tm& /*time*/,
              spdlog::memory_buf_t& dest) override {
    for (const char c : msg.payload) {
      if (c == '"' || c == '\\') {
        dest.push_back('\\');
        dest.push_back(c);
      } else if (static_cast<unsigned char>(c) < 0x20) {
        dest.push_back(' ');
      } else {
        dest.push_back(c);
      }
    }
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<JsonText>();
  }
};

}  // namespace

Result<Log> MakeLog(const WorkerConfig& config, const std::string& name) {
  spdlog::sink_ptr sink;
  try {
    if (config.log_file.empty()) {
      sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
    } else {
      sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(config.log_file);
    }
  } catch (const spdlog::spdlog_ex& e) {
    return InvalidArgument("log_file is '" + config.log_file + "': " + e.what());
  }
  auto log = std::make_shared<spdlog::logger>(name, sink);
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  if (config.log_format == "json") {
    formatter->add_flag<JsonText>('*').set_pattern(
        R"({"ts":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","component":"worker","worker":"%n","text":"%*"})");
  } else {
    formatter->add_flag<PlainText>('*').set_pattern("%H:%M:%S.%e %^%L%$ [%n] %*");
  }
  log->set_formatter(std::move(formatter));
  log->set_level(spdlog::level::from_str(config.log_level));
  log->flush_on(spdlog::level::info);
  return log;
}

}  // namespace siftd
