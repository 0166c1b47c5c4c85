// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/key_ring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/net/key_folder.h"

namespace siftd {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class KeyRingTest : public testing::Test {
 protected:
  std::unique_ptr<KeyRing> Open() const {
    return std::move(KeyRing::Open(keys_.client_keys())).value();
  }
  std::string PublicOf(const std::string& name) const {
    return ReadSecretKeyFile(keys_.path() + "/" + name + ".key_secret")->public_key;
  }
  // The roles of a key, by the table in force.
  RoleSet Roles(const KeyRing& ring, const std::string& name) const {
    const auto table = ring.table();
    const auto holder = table->find(PublicOf(name));
    return holder == table->end() ? RoleSet{0} : holder->second.roles;
  }

  const KeyFolder keys_;
  std::vector<std::string> problems_;
};

TEST_F(KeyRingTest, AKeyHasTheRolesOfItsFolders) {
  keys_.AddClient("alice", {Role::kLoader, Role::kPublisher});
  keys_.AddClient("bob", {Role::kMonitor});
  const auto ring = Open();
  EXPECT_EQ(Roles(*ring, "alice"), RoleBit(Role::kLoader) | RoleBit(Role::kPublisher));
  EXPECT_EQ(Roles(*ring, "bob"), RoleBit(Role::kMonitor));
  EXPECT_EQ(ring->table()->at(PublicOf("bob")).name, "bob");
  EXPECT_EQ(RoleNames(Roles(*ring, "alice")), "loader, publisher");
}

TEST_F(KeyRingTest, IsReadAgainWhenAFileComesGoesOrChanges) {
  const auto ring = Open();
  EXPECT_FALSE(ring->Refresh(&problems_));
  keys_.AddClient("alice", {Role::kLoader});
  EXPECT_TRUE(ring->Refresh(&problems_));
  EXPECT_EQ(Roles(*ring, "alice"), RoleBit(Role::kLoader));
  EXPECT_FALSE(ring->Refresh(&problems_));
  const std::uint64_t generation = ring->generation();
  keys_.Forbid("alice", Role::kLoader);
  EXPECT_TRUE(ring->Refresh(&problems_));
  EXPECT_EQ(Roles(*ring, "alice"), 0);
  EXPECT_GT(ring->generation(), generation);
  EXPECT_TRUE(problems_.empty());
}

TEST_F(KeyRingTest, WhatIsUnsoundStopsTheStartAndLaterCountsAsNotThere) {
  keys_.AddClient("alice", {Role::kLoader});
  keys_.AddClient("bob", {Role::kLoader});
  const auto ring = Open();
  const std::string file = keys_.PublicKey("alice", Role::kLoader);
  std::filesystem::permissions(file, std::filesystem::perms(0666));
  EXPECT_THAT(KeyRing::Open(keys_.client_keys()).status().message(),
              AllOf(HasSubstr(file), HasSubstr("chmod 644")));
  EXPECT_TRUE(ring->Refresh(&problems_));
  EXPECT_THAT(problems_, ElementsAre(HasSubstr(file)));
  EXPECT_EQ(Roles(*ring, "alice"), 0);
  EXPECT_EQ(Roles(*ring, "bob"), RoleBit(Role::kLoader));
}

TEST_F(KeyRingTest, FoldersThatOthersMayWriteLetNobodyIn) {
  keys_.AddClient("alice", {Role::kLoader, Role::kMonitor});
  const auto ring = Open();
  std::filesystem::permissions(keys_.client_keys() + "/loader", std::filesystem::perms(0777));
  EXPECT_THAT(KeyRing::Open(keys_.client_keys()).status().message(), HasSubstr("chmod go-w"));
  EXPECT_TRUE(ring->Refresh(&problems_));
  EXPECT_EQ(Roles(*ring, "alice"), RoleBit(Role::kMonitor));
  std::filesystem::permissions(keys_.client_keys(), std::filesystem::perms(0775));
  EXPECT_TRUE(ring->Refresh(&problems_));
  EXPECT_TRUE(ring->table()->empty());
}

TEST_F(KeyRingTest, AFolderOfNoRoleIsNamed) {
  std::filesystem::create_directory(keys_.client_keys() + "/loaders");
  EXPECT_THAT(
      KeyRing::Open(keys_.client_keys()).status().message(),
      AllOf(HasSubstr("clients/loaders"), HasSubstr("loader, trainer, publisher, monitor")));
  EXPECT_THAT(KeyRing::Open("/nowhere").status().message(),
              AllOf(HasSubstr("'/nowhere'"), HasSubstr("siftd keygen worker")));
}

TEST_F(KeyRingTest, OnlyKeyFilesCount) {
  std::ofstream(keys_.client_keys() + "/loader/README") << "these are ours";
  std::ofstream(keys_.client_keys() + "/loader/.alice.key.swp") << "an editor's";
  EXPECT_TRUE(Open()->table()->empty());
  std::ofstream(keys_.client_keys() + "/loader/bad.key") << "no key";
  std::filesystem::permissions(keys_.client_keys() + "/loader/bad.key",
                               std::filesystem::perms(0644));
  EXPECT_THAT(KeyRing::Open(keys_.client_keys()).status().message(), HasSubstr("bad.key"));
}

}  // namespace
}  // namespace siftd
