// SPDX-License-Identifier: Apache-2.0
#include "pipeline/wire/convert.h"

#include <algorithm>
#include <tuple>
#include <unordered_set>

#include "pipeline/wire/limits.h"

namespace siftd::wire {
namespace {

// Bytes of the UTF-8 character that `text` begins with; 0 = none.
std::size_t Utf8Length(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t size = lead >= 0xC2 && lead < 0xE0   ? 2
                           : lead >= 0xE0 && lead < 0xF0 ? 3
                           : lead >= 0xF0 && lead < 0xF5 ? 4
                                                         : 0;
  if (size == 0 || text.size() < size) return 0;
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, beyond U+10FFFF.
  if ((lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) > 0x9F) ||
      (lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) > 0x8F)) {
    return 0;
  }
  return size;
}

}  // namespace

void To(const SessionId& from, v1::Session* to) {
  to->set_incarnation(from.incarnation);
  to->set_counter(from.counter);
}

void To(const BatchKey& from, v1::Key* to) {
  to->set_loader(from.loader);
  to->set_pass(from.pass);
  to->set_seq(from.seq);
}

std::string Field::Name() const {
  std::string name(name_);
  if (index_ >= 0) name.append("[").append(std::to_string(index_)).append("]");
  return name + part_;
}

Status Refuse(const std::string& field, const std::string& value, const std::string& allowed) {
  return InvalidArgument(field + " is " + value + "; allowed: " + allowed);
}

Status CheckAtMost(const Field& field, std::size_t value, std::size_t most) {
  if (value <= most) return OkStatus();
  return Refuse(field.Name(), std::to_string(value), "at most " + std::to_string(most));
}

Status CheckLoader(const Field& field, std::uint32_t loader) {
  if (loader < limits::kMaxLoaders) return OkStatus();
  return Refuse(field.Name(), std::to_string(loader),
                "below " + std::to_string(limits::kMaxLoaders));
}

Status CheckKey(const v1::Key& key) {
  SIFTD_RETURN_IF_ERROR(CheckLoader("key.loader", key.loader()));
  if (key.seq() != UINT64_MAX) return OkStatus();
  return Refuse("key.seq", std::to_string(key.seq()), "below 2^64 - 1");
}

Status CheckText(const Field& field, const std::string& text, std::size_t most) {
  if (text.size() <= most) return OkStatus();
  return Refuse(field.Name(), std::to_string(text.size()) + " bytes long",
                "at most " + std::to_string(most));
}

std::string ClipText(std::string_view text) {
  std::string out(text.substr(0, limits::kMaxTextBytes));
  for (std::size_t i = 0; i < out.size();) {
    const std::size_t size = Utf8Length(std::string_view(out).substr(i));
    if (size == 0) out[i] = '?';
    i += std::max<std::size_t>(size, 1);
  }
  return out;
}

Status CheckUnique(const std::string& field, const std::vector<std::string_view>& names) {
  std::unordered_set<std::string_view> seen;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (seen.insert(names[i]).second) continue;
    return Refuse(field + "[" + std::to_string(i) + "].name",
                  std::string("'").append(names[i]).append("' again"), "each name once");
  }
  return OkStatus();
}

Result<DecidedSet> From(const v1::Decided& from) {
  const auto n = static_cast<std::size_t>(from.loader_size());
  SIFTD_RETURN_IF_ERROR(CheckAtMost("decided.loader's length", n, limits::kMaxIntervals));
  SIFTD_RETURN_IF_ERROR(CheckAtMost("decided.next_pass's length",
                                    static_cast<std::size_t>(from.next_pass_size()),
                                    limits::kMaxLoaders));
  if (from.pass_size() != from.loader_size() || from.begin_size() != from.loader_size() ||
      from.end_size() != from.loader_size()) {
    return Refuse("decided's arrays",
                  std::to_string(n) + " and " + std::to_string(from.pass_size()) + " and " +
                      std::to_string(from.begin_size()) + " and " +
                      std::to_string(from.end_size()) + " long",
                  "equal lengths");
  }
  DecidedSet set;
  set.next_pass = ToVector<std::uint64_t>(from.next_pass());
  set.intervals.reserve(n);
  for (int i = 0; i < from.loader_size(); ++i) {
    const DecidedInterval now{from.loader(i), from.pass(i), from.begin(i), from.end(i)};
    SIFTD_RETURN_IF_ERROR(CheckLoader({"decided.loader", i}, now.loader));
    const bool first = set.intervals.empty();
    const bool ascends = first || std::tie(now.loader, now.pass, now.begin) >=
                                      std::tie(set.intervals.back().loader,
                                               set.intervals.back().pass, set.intervals.back().end);
    if (now.begin >= now.end || !ascends) {
      return Refuse("decided[" + std::to_string(i) + "]",
                    std::string("(") + std::to_string(now.loader) + ", " +
                        std::to_string(now.pass) + ", " + std::to_string(now.begin) + ", " +
                        std::to_string(now.end) + ")",
                    "ascending, disjoint, not empty");
    }
    set.intervals.push_back(now);
  }
  return set;
}

void To(const DecidedSet& from, v1::Decided* to) {
  for (const DecidedInterval& i : from.intervals) {
    to->add_loader(i.loader);
    to->add_pass(i.pass);
    to->add_begin(i.begin);
    to->add_end(i.end);
  }
  FromVector(from.next_pass, to->mutable_next_pass());
}

}  // namespace siftd::wire
