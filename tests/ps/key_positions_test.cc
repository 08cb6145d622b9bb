#include "ps/key_positions.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/random.h"

namespace gatemill::ps {
namespace {

TEST(KeyPositions, FindsRepeatsAndOnlyThem) {
  RandomStream random(5, 0);
  std::vector<std::uint64_t> keys = {0, ~0ULL};
  for (int i = 0; i < 1000; ++i) keys.push_back(random());
  KeyPositions positions;
  for (int round = 0; round < 2; ++round) {  // Reset forgets
    positions.Reset(keys.size());
    for (std::uint32_t i = 0; i < keys.size(); ++i) ASSERT_EQ(positions.FindOrInsert(keys[i], keys, i), i);
    for (std::uint32_t i = 0; i < keys.size(); ++i) ASSERT_EQ(positions.FindOrInsert(keys[i], keys, 5000), i);
  }
}

TEST(KeyPositions, AnEmptyBatchIsFine) {
  KeyPositions positions;
  positions.Reset(0);
  const std::vector<std::uint64_t> keys = {4};
  EXPECT_EQ(positions.FindOrInsert(4, {}, 0), 0U);
  EXPECT_EQ(positions.FindOrInsert(4, keys, 1), 0U);
}

}  // namespace
}  // namespace gatemill::ps
