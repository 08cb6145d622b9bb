#include "ps/table/slabs.h"

#include <gtest/gtest.h>

#include <cstring>

namespace gatemill::ps {
namespace {

TEST(Slabs, RecordsKeepTheirBytesWhileSlabsAreAdded) {
  for (const std::size_t record_bytes : {4UL, 12UL, 64UL, 1000UL, 65536UL}) {
    Slabs slabs(record_bytes, 64);
    const std::uint64_t count = 5 * 64 + 7;
    for (std::uint64_t i = 0; i < count; ++i) {
      slabs.Reserve(i + 1);
      const auto stamp = static_cast<std::uint32_t>(i);
      std::memcpy(slabs.At(i), &stamp, sizeof(stamp));
      std::memcpy(slabs.At(i) + record_bytes - sizeof(stamp), &stamp, sizeof(stamp));
    }
    for (std::uint64_t i = 0; i < count; ++i) {
      std::uint32_t first = 0;
      std::uint32_t last = 0;
      std::memcpy(&first, slabs.At(i), sizeof(first));
      std::memcpy(&last, slabs.At(i) + record_bytes - sizeof(last), sizeof(last));
      ASSERT_EQ(first, i) << record_bytes;
      ASSERT_EQ(last, i) << record_bytes;
    }
    EXPECT_GE(slabs.memory_bytes(), count * record_bytes);
    EXPECT_LT(slabs.memory_bytes(), 6 * 64 * record_bytes + 4096);
  }
}

TEST(Slabs, SmallStaysSmallAndStartsOnACacheLine) {
  Slabs slabs(64, 1024);
  EXPECT_EQ(slabs.memory_bytes(), 0U);
  slabs.Reserve(10);
  EXPECT_LT(slabs.memory_bytes(), 4096U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(slabs.At(0)) % 64, 0U);
  slabs.Clear();
  EXPECT_LT(slabs.memory_bytes(), 64U);
}

}  // namespace
}  // namespace gatemill::ps
