#include "worker/model/tensor_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>

namespace gatemill::model {
namespace {

TEST(TensorMemory, FreedBlocksAreHandedOutAgain) {
  TensorMemory memory(64 << 20);
  void* first = nullptr;
  {
    const auto block = memory.allocate(1 << 20);
    first = block.get();
    std::memset(first, 1, 1 << 20);
  }
  EXPECT_GE(memory.idle_bytes(), std::size_t{1} << 20);
  const auto again = memory.allocate((1 << 20) - 100);  // nearly the same size
  EXPECT_EQ(again.get(), first);
  EXPECT_EQ(memory.idle_bytes(), 0U);
}

TEST(TensorMemory, KeepsNoMoreThanItsLimitAndNoSmallBlocks) {
  TensorMemory memory(3 << 20);
  {
    const auto a = memory.allocate(2 << 20);
    const auto b = memory.allocate(2 << 20);
    const auto c = memory.allocate(100);
  }
  EXPECT_EQ(memory.idle_bytes(), std::size_t{2} << 20);
}

TEST(TensorMemory, EveryBlockIsAlignedAndAllItsBytesAreUsable) {
  TensorMemory memory(64 << 20);
  for (const std::size_t bytes : {1UL, 63UL, 64UL, 65535UL, 65536UL, 1000000UL, 5000000UL, 40000000UL}) {
    const auto block = memory.allocate(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.get()) % 64, 0U) << bytes;
    std::memset(block.get(), 7, bytes);
  }
  EXPECT_EQ(memory.allocate(0).get(), nullptr);
}

TEST(TensorMemory, ServesTheRawInterface) {
  TensorMemory memory(64 << 20);
  void* block = memory.raw_allocate(1 << 20);
  ASSERT_NE(block, nullptr);
  memory.raw_deallocate(block);
  EXPECT_GT(memory.idle_bytes(), 0U);
}

}  // namespace
}  // namespace gatemill::model
