// SPDX-License-Identifier: Apache-2.0
#include "siftd/state_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace siftd {
namespace {

using testing::HasSubstr;

class StateFile : public testing::Test {
 protected:
  StateFile() : folder_(testing::TempDir() + "state_file_" + std::to_string(getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~StateFile() override { std::filesystem::remove_all(folder_); }

  const std::string folder_;
};

TEST_F(StateFile, ComesBackAndReplacesTheOneBefore) {
  const std::string path = folder_ + "/state";
  ASSERT_TRUE(SaveState({.steps = 1}, path).ok());
  ASSERT_TRUE(SaveState({.steps = 2, .batch_size = 8}, path).ok());
  const auto state = LoadState(path);
  ASSERT_TRUE(state.ok()) << state.status().message();
  EXPECT_EQ(state->steps, 2u);
  EXPECT_EQ(state->batch_size, 8u);
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
}

TEST_F(StateFile, AFullDiskLeavesTheOneBefore) {
  const std::string path = folder_ + "/state";
  ASSERT_TRUE(SaveState({.steps = 1}, path).ok());
  std::filesystem::create_symlink("/dev/full", path + ".partial");
  const Status status = SaveState({.steps = 2}, path);
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("No space left"));
  EXPECT_EQ(LoadState(path)->steps, 1u);
}

TEST_F(StateFile, WhatIsNoStateIsNamed) {
  EXPECT_EQ(LoadState(folder_ + "/none").status().code(), Code::kNotFound);
  const std::string path = folder_ + "/other";
  std::ofstream(path) << "hello, this is no state";
  const Status status = LoadState(path).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr(path));
}

}  // namespace
}  // namespace siftd
