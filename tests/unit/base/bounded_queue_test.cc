// SPDX-License-Identifier: Apache-2.0
#include "pipeline/base/bounded_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <vector>

#include "pipeline/base/thread.h"

namespace siftd {
namespace {

constexpr auto kLong = std::chrono::seconds(30);

TEST(BoundedQueue, KeepsOrderAndCapacity) {
  BoundedQueue<int> queue(2);
  int item = 1;
  EXPECT_EQ(queue.TryPush(item), QueueResult::kOk);
  item = 2;
  EXPECT_EQ(queue.TryPush(item), QueueResult::kOk);
  item = 3;
  EXPECT_EQ(queue.TryPush(item), QueueResult::kFull);
  int out = 0;
  EXPECT_EQ(queue.TryPop(&out), QueueResult::kOk);
  EXPECT_EQ(out, 1);
}

TEST(BoundedQueue, RefusedItemIsUntouched) {
  BoundedQueue<std::unique_ptr<int>> queue(1);
  auto first = std::make_unique<int>(1);
  auto second = std::make_unique<int>(2);
  ASSERT_EQ(queue.TryPush(first), QueueResult::kOk);
  EXPECT_EQ(queue.TryPush(second), QueueResult::kFull);
  EXPECT_NE(second, nullptr);
}

TEST(BoundedQueue, CloseDrainsThenSaysClosed) {
  BoundedQueue<int> queue(2);
  int item = 7;
  ASSERT_EQ(queue.TryPush(item), QueueResult::kOk);
  queue.Close();
  EXPECT_EQ(queue.TryPush(item), QueueResult::kClosed);
  int out = 0;
  EXPECT_EQ(queue.Pop(&out, Now() + kLong), QueueResult::kOk);
  EXPECT_EQ(queue.Pop(&out, Now() + kLong), QueueResult::kClosed);
}

TEST(BoundedQueue, CloseUnblocksPop) {
  BoundedQueue<int> queue(1);
  QueueResult result = QueueResult::kOk;
  Thread popper("pop", [&] {
    int out = 0;
    result = queue.Pop(&out, Now() + kLong);
  });
  queue.Close();
  popper.Join();
  EXPECT_EQ(result, QueueResult::kClosed);
}

TEST(BoundedQueue, NothingIsLostBetweenThreads) {
  constexpr int kItems = 20'000;
  BoundedQueue<int> queue(3);
  std::vector<int> seen;
  Thread popper("pop", [&] {
    int out = 0;
    while (queue.Pop(&out, Now() + kLong) == QueueResult::kOk) seen.push_back(out);
  });
  for (int i = 0; i < kItems; ++i) {
    int item = i;
    ASSERT_EQ(queue.Push(item, Now() + kLong), QueueResult::kOk);
  }
  queue.Close();
  popper.Join();
  std::vector<int> expected(kItems);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(seen, expected);
}

}  // namespace
}  // namespace siftd
