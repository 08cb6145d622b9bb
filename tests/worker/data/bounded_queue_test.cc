#include "worker/data/bounded_queue.h"

#include <gtest/gtest.h>

#include <thread>

namespace gatemill::data {
namespace {

constexpr std::chrono::milliseconds kLong{60'000};

TEST(BoundedQueueTest, HandsItemsOverInOrderAndDrains) {
  BoundedQueue<int> queue(2);
  std::thread maker([&] {
    for (int i = 0; i < 1000; ++i) EXPECT_TRUE(queue.Push(i));
    queue.Close();
  });
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(queue.Pop(kLong), i);
  EXPECT_EQ(queue.Pop(kLong), std::nullopt);
  EXPECT_TRUE(queue.drained());
  maker.join();
}

TEST(BoundedQueueTest, CloseFreesAWaitingMaker) {
  BoundedQueue<int> queue(1);
  ASSERT_TRUE(queue.Push(1));
  std::thread maker([&] { EXPECT_FALSE(queue.Push(2)); });
  queue.Close();
  maker.join();
  EXPECT_FALSE(queue.drained());
  EXPECT_EQ(queue.Pop(kLong), 1);
  EXPECT_TRUE(queue.drained());
}

TEST(BoundedQueueTest, PopKeepsItsDeadline) {
  BoundedQueue<int> queue(1);
  EXPECT_EQ(queue.Pop(std::chrono::milliseconds(1)), std::nullopt);
  EXPECT_FALSE(queue.drained());
}

}  // namespace
}  // namespace gatemill::data
