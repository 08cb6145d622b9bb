#include "ps/wire/buffer_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <thread>
#include <vector>

namespace gatemill::ps {
namespace {

TEST(BufferPoolTest, ABufferComesBackWhenItsLastReferenceIsGone) {
  BufferPool pool;
  std::shared_ptr<std::byte> buffer = pool.Take(1 << 20);
  const std::byte* address = buffer.get();
  std::shared_ptr<std::byte> second = buffer;
  buffer.reset();
  EXPECT_EQ(pool.idle(), 0U);
  second.reset();
  EXPECT_EQ(pool.idle(), 1U);
  EXPECT_EQ(pool.Take((1 << 20) + 1000).get(), address);  // there is room for a slightly larger step
}

TEST(BufferPoolTest, BuffersInUseAreDifferent) {
  BufferPool pool;
  const auto a = pool.Take(100);
  const auto b = pool.Take(100);
  std::memset(a.get(), 1, 100);
  std::memset(b.get(), 2, 100);
  EXPECT_EQ(a.get()[99], std::byte{1});
  EXPECT_EQ(b.get()[99], std::byte{2});
}

TEST(BufferPoolTest, ATooSmallIdleBufferIsReplaced) {
  BufferPool pool;
  pool.Take(100).reset();
  const auto large = pool.Take(1 << 22);
  std::memset(large.get(), 3, 1 << 22);
  EXPECT_EQ(pool.idle(), 0U);
}

TEST(BufferPoolTest, IdleBuffersAreLimited) {
  BufferPool pool;
  std::vector<std::shared_ptr<std::byte>> taken;
  for (int i = 0; i < 50; ++i) taken.push_back(pool.Take(10));
  taken.clear();
  EXPECT_GT(pool.idle(), 0U);
  EXPECT_LT(pool.idle(), 50U);
}

TEST(BufferPoolTest, ReferencesMayBeDroppedByOtherThreadsAndOutliveThePool) {
  std::optional<BufferPool> pool(std::in_place);
  auto buffer = pool->Take(64);
  std::memset(buffer.get(), 4, 64);
  std::thread([buffer = pool->Take(64)]() mutable { buffer.reset(); }).join();
  EXPECT_EQ(pool->idle(), 1U);
  pool.reset();
  EXPECT_EQ(buffer.get()[63], std::byte{4});
}

TEST(BufferPoolTest, NoBytesAreABufferToo) {
  BufferPool pool;
  EXPECT_NE(pool.Take(0), nullptr);
}

}  // namespace
}  // namespace gatemill::ps
