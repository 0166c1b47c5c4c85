// SPDX-License-Identifier: Apache-2.0
// Key files of a worker and of its clients, in a folder that is gone afterwards.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <initializer_list>
#include <string>

#include "pipeline/data/messages.h"
#include "pipeline/net/key_files.h"

namespace siftd {

class KeyFolder {
 public:
  KeyFolder() {
    std::string name = testing::TempDir() + "siftd-keys-XXXXXX";
    path_ = mkdtemp(name.data());
    MakeFolder(client_keys());
    for (const Role role : {Role::kLoader, Role::kTrainer, Role::kPublisher, Role::kMonitor})
      MakeFolder(client_keys() + "/" + RoleName(role));
    const CurveKeys worker = MakeCurveKeys().value();
    EXPECT_EQ(WriteSecretKeyFile(worker_secret(), "test", worker, false), OkStatus());
    EXPECT_EQ(WritePublicKeyFile(path_ + "/worker.key", "test", worker.public_key, false),
              OkStatus());
  }
  ~KeyFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  KeyFolder(const KeyFolder&) = delete;
  KeyFolder& operator=(const KeyFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string worker_secret() const { return path_ + "/worker.key_secret"; }
  std::string client_keys() const { return path_ + "/clients"; }
  std::string PublicKey(const std::string& name, Role role) const {
    return client_keys() + "/" + RoleName(role) + "/" + name + ".key";
  }

  // The secret key file of a new client that may take these roles.
  std::string AddClient(const std::string& name, std::initializer_list<Role> roles) const {
    const CurveKeys keys = MakeCurveKeys().value();
    const std::string secret = path_ + "/" + name + ".key_secret";
    EXPECT_EQ(WriteSecretKeyFile(secret, "test", keys, false), OkStatus());
    for (const Role role : roles) Allow(name, role);
    return secret;
  }
  void Allow(const std::string& name, Role role) const {
    const CurveKeys keys = ReadSecretKeyFile(path_ + "/" + name + ".key_secret").value();
    EXPECT_EQ(WritePublicKeyFile(PublicKey(name, role), "test", keys.public_key, false),
              OkStatus());
  }
  void Forbid(const std::string& name, Role role) const {
    std::filesystem::remove(PublicKey(name, role));
  }

 private:
  static void MakeFolder(const std::string& path) {
    std::filesystem::create_directory(path);
    std::filesystem::permissions(path, std::filesystem::perms(0755));  // whatever the umask is
  }

  std::string path_;
};

}  // namespace siftd
