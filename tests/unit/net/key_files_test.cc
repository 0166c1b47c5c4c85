// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/key_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "tests/unit/net/key_folder.h"

namespace siftd {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class KeyFiles : public testing::Test {
 protected:
  std::string File(const std::string& text, unsigned mode = 0600) const {
    const std::string path = keys_.path() + "/some.file";
    std::ofstream(path) << text;
    std::filesystem::permissions(path, std::filesystem::perms(mode));
    return path;
  }
  static unsigned Mode(const std::string& path) {
    struct stat s {};
    EXPECT_EQ(stat(path.c_str(), &s), 0);
    return s.st_mode & 0777;
  }
  static std::string Text(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }

  const KeyFolder keys_;
};

TEST_F(KeyFiles, WhatIsWrittenIsRead) {
  const std::string secret = keys_.AddClient("alice", {Role::kLoader});
  const auto own = ReadSecretKeyFile(secret);
  ASSERT_TRUE(own.ok()) << own.status().ToString();
  EXPECT_EQ(*ReadPublicKeyFile(keys_.PublicKey("alice", Role::kLoader)), own->public_key);
  EXPECT_EQ(Mode(secret), 0600u);
  EXPECT_EQ(Mode(keys_.PublicKey("alice", Role::kLoader)), 0644u);
  EXPECT_THAT(Text(keys_.PublicKey("alice", Role::kLoader)), Not(HasSubstr(own->secret_key)));
  const auto client = ReadClientKeys(secret, "");
  ASSERT_TRUE(client.ok()) << client.status().ToString();
  EXPECT_EQ(client->worker, ReadSecretKeyFile(keys_.worker_secret())->public_key);
}

TEST_F(KeyFiles, ASecretThatOthersMayReadIsRefusedWithWhatToDo) {
  for (const unsigned mode : {0640u, 0604u, 0660u, 0644u, 0610u}) {
    std::filesystem::permissions(keys_.worker_secret(), std::filesystem::perms(mode));
    EXPECT_THAT(ReadSecretKeyFile(keys_.worker_secret()).status().message(),
                AllOf(HasSubstr(keys_.worker_secret()), HasSubstr("chmod 600")))
        << mode;
  }
  std::filesystem::permissions(keys_.worker_secret(), std::filesystem::perms(0400));
  EXPECT_TRUE(ReadSecretKeyFile(keys_.worker_secret()).ok());
}

TEST_F(KeyFiles, APublicKeyThatOthersMayWriteIsRefused) {
  const std::string path = keys_.path() + "/worker.key";
  std::filesystem::permissions(path, std::filesystem::perms(0664));
  EXPECT_THAT(ReadPublicKeyFile(path).status().message(),
              AllOf(HasSubstr(path), HasSubstr("0664"), HasSubstr("chmod 644")));
}

TEST_F(KeyFiles, ASecretIsNoPublicKey) {
  EXPECT_THAT(ReadPublicKeyFile(keys_.worker_secret()).status().message(),
              HasSubstr("holds a secret key"));
}

TEST_F(KeyFiles, WhatIsNoKeyIsRefusedByFieldWithoutShowingIt) {
  const CurveKeys good = MakeCurveKeys().value();
  const CurveKeys other = MakeCurveKeys().value();
  const std::string line = "public-key = \"" + good.public_key + "\"\n";
  const std::string cut = good.secret_key.substr(0, 39);
  const struct {
    std::string text;
    const char* why;
  } cases[] = {
      {"", "public-key is not there"},
      {line, "secret-key is not there"},
      {line + "secret-key = \"" + cut + "\"\n", "secret-key is no key"},
      {line + "secret-key = \"" + cut + "\\\"\n", "secret-key is no key"},
      {line + "secret-key = \"" + other.secret_key + "\"\n", "of different pairs"},
      {"#" + line + "secret-key = " + good.secret_key, "public-key is not there"},
      {std::string(5000, '#'), "larger than 4096 bytes"},
  };
  for (const auto& c : cases) {
    const Status status = ReadSecretKeyFile(File(c.text)).status();
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr(c.why), Not(HasSubstr(cut)), Not(HasSubstr(other.secret_key))))
        << c.text;
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
  }
  EXPECT_TRUE(
      ReadSecretKeyFile(File("curve\r\n\t" + line + "    secret-key=\"" + good.secret_key + "\""))
          .ok());
}

TEST_F(KeyFiles, AKeyThatAZeroByteCutsShortIsRefused) {
  std::string key = MakeCurveKeys().value().public_key;
  key[5] = '\0';
  const std::string path = File("public-key = \"" + key + "\"\n", 0644);
  EXPECT_THAT(ReadPublicKeyFile(path).status().message(), HasSubstr("public-key is no key"));
}

TEST_F(KeyFiles, SpoiltFilesAreReadOrRefusedNeverMore) {
  const std::string good = Text(keys_.worker_secret());
  std::mt19937 rng(5);
  int read = 0;
  for (int i = 0; i < 600; ++i) {
    std::string text = good;
    for (auto n = 1 + rng() % 4; n > 0; --n) {
      const std::size_t at = rng() % text.size();
      if (rng() % 3 == 0)
        text.erase(at, 1 + rng() % 40);
      else if (rng() % 2 == 0)
        text.insert(at, 1 + rng() % 3, static_cast<char>(rng()));
      else
        text[at] = static_cast<char>(rng());
      if (text.empty()) text = "x";
    }
    const auto keys = ReadSecretKeyFile(File(text));
    if (keys.ok()) {
      ++read;
      EXPECT_EQ(keys->public_key.size(), 40u);
    } else {
      EXPECT_EQ(keys.status().code(), Code::kInvalidArgument);
    }
  }
  EXPECT_GT(read, 20) << "comments may change";
  EXPECT_LT(read, 580);
}

TEST_F(KeyFiles, WhatIsNoFileIsRefused) {
  EXPECT_THAT(ReadSecretKeyFile("/nowhere/a.key_secret").status().message(),
              AllOf(HasSubstr("/nowhere/a.key_secret"), HasSubstr("siftd keygen")));
  EXPECT_THAT(ReadSecretKeyFile(keys_.path()).status().message(), HasSubstr("no regular file"));
  const std::string pipe = keys_.path() + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(ReadSecretKeyFile(pipe).status().message(), HasSubstr("no regular file"));
}

TEST_F(KeyFiles, NothingIsReplacedUnlessForced) {
  const CurveKeys fresh = MakeCurveKeys().value();
  const std::string before = Text(keys_.worker_secret());
  const Status status = WriteSecretKeyFile(keys_.worker_secret(), "test", fresh, false);
  EXPECT_THAT(status.message(), AllOf(HasSubstr(keys_.worker_secret()), HasSubstr("--force")));
  EXPECT_EQ(Text(keys_.worker_secret()), before);
  EXPECT_EQ(WriteSecretKeyFile(keys_.worker_secret(), "test", fresh, true), OkStatus());
  EXPECT_EQ(ReadSecretKeyFile(keys_.worker_secret())->secret_key, fresh.secret_key);
  EXPECT_EQ(Mode(keys_.worker_secret()), 0600u);
}

}  // namespace
}  // namespace siftd
