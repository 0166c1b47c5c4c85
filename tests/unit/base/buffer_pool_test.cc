// SPDX-License-Identifier: Apache-2.0
#include "pipeline/base/buffer_pool.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "pipeline/base/thread.h"

namespace siftd {
namespace {

TEST(BufferPool, GivesWhatWasLetGoOfToTheNextOfItsSize) {
  BufferPool pool;
  auto first = pool.Take(1000);
  auto other = pool.Take(2000);
  const std::uint8_t* const was = first.get();
  first.reset();
  other.reset();
  EXPECT_EQ(pool.Take(1000).get(), was);
}

TEST(BufferPool, NeverGivesWhatIsHeld) {
  BufferPool pool;
  std::vector<std::shared_ptr<std::uint8_t>> held;
  std::set<const std::uint8_t*> different;
  for (int i = 0; i < 20; ++i) {
    held.push_back(pool.Take(64));
    different.insert(held.back().get());
    pool.Take(64);  // let go of at once
  }
  EXPECT_EQ(different.size(), held.size());
}

TEST(BufferPool, HoldsSoManyUnusedOnesAndLetsTheOldestGo) {
  BufferPool pool(2);
  const std::uint8_t* newest = nullptr;
  {
    const auto a = pool.Take(100), b = pool.Take(200), c = pool.Take(300);
    newest = a.get();  // let go of last
  }
  EXPECT_EQ(pool.Take(100).get(), newest);
  EXPECT_EQ(pool.unused(), 2u);
}

TEST(BufferPool, MemoryOutlivesThePool) {
  std::shared_ptr<std::uint8_t> memory;
  {
    BufferPool pool;
    memory = pool.Take(3);
  }
  memory.get()[2] = 7;
  EXPECT_EQ(memory.get()[2], 7);
}

TEST(BufferPool, IsLetGoOfByOtherThreads) {
  BufferPool pool;
  for (int i = 0; i < 200; ++i) {
    Thread thread("siftd-test", [memory = pool.Take(128)]() mutable { memory.get()[0] = 1; });
    pool.Take(128).get()[0] = 2;
  }
  EXPECT_LE(pool.unused(), 8u);
}

}  // namespace
}  // namespace siftd
