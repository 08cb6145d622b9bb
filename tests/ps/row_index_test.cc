#include "ps/table/row_index.h"

#include <gtest/gtest.h>

#include <unordered_map>
#include <vector>

#include "common/random.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 11;

TEST(RowIndex, FindsWhatWasInsertedAndNothingElse) {
  RowIndex index;
  std::unordered_map<std::uint64_t, std::uint32_t> model;
  RandomStream random(kSeed, 0);
  for (std::uint32_t row = 0; row < 200'000; ++row) {
    const std::uint64_t key = row % 3 == 0 ? row : random();  // small numbers too
    if (model.contains(key)) continue;
    EXPECT_EQ(index.Find(key, Mix64(key)), RowIndex::kNoRow);
    index.Insert(key, Mix64(key), row);
    model[key] = row;
  }
  for (const auto& [key, row] : model) ASSERT_EQ(index.Find(key, Mix64(key)), row) << "key " << key;
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t key = random();
    if (!model.contains(key)) {
      ASSERT_EQ(index.Find(key, Mix64(key)), RowIndex::kNoRow);
    }
  }
}

TEST(RowIndex, EveryKeyIsLegal) {
  RowIndex index;
  const std::vector<std::uint64_t> keys = {0, ~0ULL, ~0U, 1, 1ULL << 63};
  for (std::uint32_t i = 0; i < keys.size(); ++i) index.Insert(keys[i], Mix64(keys[i]), i);
  for (std::uint32_t i = 0; i < keys.size(); ++i) EXPECT_EQ(index.Find(keys[i], Mix64(keys[i])), i);
}

TEST(RowIndex, CollectsAVshard) {
  RowIndex index;
  std::uint64_t inserted = 0;
  for (std::uint32_t key = 0; key < 50'000; ++key) {
    index.Insert(key, Mix64(key), key);
    ++inserted;
  }
  std::uint64_t collected = 0;
  std::vector<RowIndex::Slot> slots;
  for (std::uint32_t vshard = 0; vshard < kNumVshards; ++vshard) {
    slots.clear();
    index.Collect(vshard, &slots);
    for (const RowIndex::Slot& slot : slots) {
      ASSERT_EQ(VshardOf(slot.key), vshard);
      ASSERT_EQ(slot.key, slot.row);
    }
    collected += slots.size();
  }
  EXPECT_EQ(collected, inserted);
}

TEST(RowIndex, ClearForgetsAndFreesTheSlots) {
  RowIndex index;
  const std::uint64_t empty_bytes = index.memory_bytes();
  for (std::uint32_t key = 0; key < 10'000; ++key) index.Insert(key, Mix64(key), key);
  // 12 bytes a slot, at most four fifths and never less than half of them used.
  EXPECT_GT(index.memory_bytes() - empty_bytes, 10'000U * 12 * 5 / 4);
  EXPECT_LT(index.memory_bytes() - empty_bytes, 10'000U * 12 * 2);
  index.Clear();
  EXPECT_EQ(index.memory_bytes(), empty_bytes);
  EXPECT_EQ(index.Find(5, Mix64(5)), RowIndex::kNoRow);
}

}  // namespace
}  // namespace gatemill::ps
