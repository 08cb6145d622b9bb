#include "common/executor.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>
#include <vector>

namespace gatemill {
namespace {

TEST(Executor, AThreadRunsJobsInOrderElsewhere) {
  std::vector<int> order;
  std::thread::id where;
  {
    ThreadExecutor executor;
    for (int i = 0; i < 100; ++i) {
      executor.Run([&order, &where, i] {
        order.push_back(i);
        where = std::this_thread::get_id();
      });
    }
  }  // waits for all of them
  ASSERT_EQ(order.size(), 100U);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
  EXPECT_NE(where, std::this_thread::get_id());
}

TEST(Executor, RunDoesNotWaitForTheJob) {
  std::promise<void> go;
  std::promise<void> done;
  ThreadExecutor executor;
  executor.Run([&] {
    go.get_future().wait_for(std::chrono::seconds(30));
    done.set_value();
  });
  std::future<void> finished = done.get_future();
  EXPECT_EQ(finished.wait_for(std::chrono::milliseconds(0)), std::future_status::timeout);
  go.set_value();
  EXPECT_EQ(finished.wait_for(std::chrono::seconds(30)), std::future_status::ready);
}

TEST(Executor, DrainWaitsForTheJobsSoFar) {
  ThreadExecutor executor;
  int ran = 0;
  for (int round = 1; round <= 50; ++round) {
    for (int i = 0; i < 3; ++i) executor.Run([&ran] { ++ran; });
    executor.Drain();
    ASSERT_EQ(ran, 3 * round);
  }
}

TEST(Executor, InlineRunsTheJobAtOnce) {
  InlineExecutor executor;
  bool ran = false;
  executor.Run([&] { ran = true; });
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace gatemill
