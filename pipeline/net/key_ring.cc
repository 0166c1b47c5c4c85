// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/key_ring.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "pipeline/net/key_files.h"

namespace siftd {
namespace {

constexpr std::string_view kSuffix = ".key";

// Names in a folder but for hidden ones, sorted; nothing if it can't be read.
std::optional<std::vector<std::string>> Names(const std::string& folder) {
  DIR* dir = opendir(folder.c_str());
  if (dir == nullptr) return std::nullopt;
  std::vector<std::string> names;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

bool IsKey(const std::string& name) {
  return name.size() > kSuffix.size() &&
         std::string_view(name).substr(name.size() - kSuffix.size()) == kSuffix;
}

std::optional<Role> RoleOf(const std::string& name) {
  for (const Role role : {Role::kLoader, Role::kTrainer, Role::kPublisher, Role::kMonitor}) {
    if (name == RoleName(role)) return role;
  }
  return std::nullopt;
}

// What changes when somebody touches the file or folder.
std::string Stamp(const std::string& path) {
  struct stat s {};
  if (stat(path.c_str(), &s) != 0) return path + " gone\n";
  return path + " " + std::to_string(s.st_dev) + " " + std::to_string(s.st_ino) + " " +
         std::to_string(s.st_mode) + " " + std::to_string(s.st_uid) + " " +
         std::to_string(s.st_size) + " " + std::to_string(s.st_mtim.tv_sec) + "." +
         std::to_string(s.st_mtim.tv_nsec) + " " + std::to_string(s.st_ctim.tv_sec) + "." +
         std::to_string(s.st_ctim.tv_nsec) + "\n";
}

std::string StampAll(const std::string& folder) {
  std::string all = Stamp(folder);
  for (const std::string& name : Names(folder).value_or(std::vector<std::string>())) {
    const std::string below = folder + "/" + name;
    all += Stamp(below);
    if (!RoleOf(name)) continue;
    for (const std::string& file : Names(below).value_or(std::vector<std::string>()))
      all += Stamp(below + "/" + file);
  }
  return all;
}

// For logs: the file's name, with nothing in it that could make a log line another one.
std::string PrintableName(const std::string& file) {
  std::string name = file.substr(0, file.size() - kSuffix.size());
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c < '!' || c > '~'; }, '?');
  return name;
}

void ReadRole(const std::string& folder, Role role, KeyRing::Table* table,
              std::vector<std::string>* problems) {
  const auto note = [&](const Status& s) { problems->push_back(s.message()); };
  if (const Status s = CheckOnlyOwnerWrites(folder); !s.ok()) return note(s);
  const auto names = Names(folder);
  if (!names)
    return note(InvalidArgument("cannot read folder '" + folder + "': " + std::strerror(errno)));
  for (const std::string& name : *names) {
    if (!IsKey(name)) continue;
    const auto key = ReadPublicKeyFile(folder + "/" + name);
    if (!key.ok()) {
      note(key.status());
      continue;
    }
    KeyRing::Holder& holder = (*table)[*key];
    if (holder.name.empty()) holder.name = PrintableName(name);
    holder.roles |= RoleBit(role);
  }
}

KeyRing::Table ReadAll(const std::string& folder, std::vector<std::string>* problems) {
  KeyRing::Table table;
  const auto names = Names(folder);
  if (!names) {
    problems->push_back("client_keys is '" + folder + "': " + std::strerror(errno) +
                        "; allowed: a folder of key files, as `siftd keygen worker` makes one");
    return table;
  }
  if (const Status s = CheckOnlyOwnerWrites(folder); !s.ok()) {
    problems->push_back(s.message());
    return table;
  }
  for (const std::string& name : *names) {
    const auto role = RoleOf(name);
    if (role) {
      ReadRole(folder + "/" + name, *role, &table, problems);
    } else {
      problems->push_back(
          "'" + folder + "/" + name +
          "' is of no role; allowed in it: folders loader, trainer, publisher, monitor");
    }
  }
  return table;
}

}  // namespace

Result<std::unique_ptr<KeyRing>> KeyRing::Open(const std::string& folder) {
  std::unique_ptr<KeyRing> ring(new KeyRing(folder));
  std::vector<std::string> problems;
  ring->Refresh(&problems);
  if (!problems.empty()) return InvalidArgument(problems.front());
  return ring;
}

bool KeyRing::Refresh(std::vector<std::string>* problems) {
  std::string now = StampAll(folder_);  // before the reading: what changes meanwhile is read again
  if (now == seen_) return false;
  seen_ = std::move(now);
  Publish(ReadAll(folder_, problems));
  return true;
}

void KeyRing::Publish(Table table) {
  auto fresh = std::make_shared<const Table>(std::move(table));
  const std::lock_guard lock(mu_);
  table_ = std::move(fresh);
  ++generation_;
}

std::shared_ptr<const KeyRing::Table> KeyRing::table() const {
  const std::lock_guard lock(mu_);
  return table_;
}

}  // namespace siftd
