#include "ps/table/row_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/random.h"
#include "tests/ps/pages_asked.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 11;
using Model = std::unordered_map<std::uint64_t, std::uint32_t>;

std::uint32_t Expected(const Model& model, std::uint64_t key) {
  const auto at = model.find(key);
  return at == model.end() ? RowIndex::kNoRow : at->second;
}

void ExpectFinds(const RowIndex& index, const Model& model, const std::vector<std::uint64_t>& keys) {
  std::vector<std::uint32_t> rows(keys.size());
  index.Find(keys, rows.data());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    ASSERT_EQ(rows[i], Expected(model, keys[i])) << "key " << keys[i] << " seed " << kSeed;
    ASSERT_EQ(index.Find(keys[i]), rows[i]);
  }
}

class RowIndexOn : public testing::TestWithParam<Isa> {};

// Inserts and erases in turn through many growths, looking up what is there and what is not all the while.
TEST_P(RowIndexOn, BehavesAsAnUnorderedMap) {
  if (!IsaSupported(GetParam())) GTEST_SKIP() << "this CPU lacks the instruction set";
  RowIndex index({}, GetParam());
  Model model;
  RandomStream random(kSeed, 0);
  std::vector<std::uint64_t> keys;  // every one that ever was
  for (std::uint32_t row = 0; row < 150'000; ++row) {
    const std::uint64_t key = row % 3 == 0 ? row : random();  // small numbers too
    if (model.emplace(key, row).second) index.Insert(key, row);
    keys.push_back(key);
    if (row % 4 == 0) {
      const std::uint64_t gone = keys[random.Below(keys.size())];
      if (model.erase(gone) != 0) index.Erase(gone);
    }
    ASSERT_EQ(index.size(), model.size());
    if ((row & (row - 1)) != 0 && row % 10'007 != 0) continue;
    std::vector<std::uint64_t> asked = keys;
    for (int i = 0; i < 5'000; ++i) asked.push_back(random());
    ExpectFinds(index, model, asked);
    if (HasFatalFailure()) return;
  }
}

// As a store hands them out. An index that has room from the beginning stays as it is.
TEST_P(RowIndexOn, TakesKeysInTheOrderOfTheirHashes) {
  if (!IsaSupported(GetParam())) GTEST_SKIP() << "this CPU lacks the instruction set";
  constexpr std::uint64_t kKeys = 100'000;
  std::vector<std::uint64_t> keys(kKeys);
  for (std::uint64_t i = 0; i < kKeys; ++i) keys[i] = i * 77;
  std::sort(keys.begin(), keys.end(), [](std::uint64_t a, std::uint64_t b) { return Mix64(a) < Mix64(b); });
  RowIndex index({}, GetParam());
  index.Reserve(kKeys);
  const std::uint64_t bytes = index.memory_bytes();
  EXPECT_LE(bytes, kKeys * 18);
  Model model;
  for (std::uint32_t row = 0; row < kKeys; ++row) {
    index.Insert(keys[row], row);
    model.emplace(keys[row], row);
  }
  EXPECT_LE(index.memory_bytes(), bytes + 64) << "it did not grow";
  index.Reserve(10 * kKeys);  // has keys: nothing happens
  keys.push_back(1);
  ExpectFinds(index, model, keys);
}

// The homes of one vshard's keys lie together: most have to go on to buckets far from home.
TEST_P(RowIndexOn, FindsKeysThatCrowd) {
  if (!IsaSupported(GetParam())) GTEST_SKIP() << "this CPU lacks the instruction set";
  RowIndex index({}, GetParam());
  Model model;
  RandomStream random(kSeed, 1);
  std::vector<std::uint64_t> keys;
  while (model.size() < 3'000) {
    const std::uint64_t key = random();
    if (VshardOf(key) != 1023 || !model.emplace(key, static_cast<std::uint32_t>(model.size())).second) continue;
    index.Insert(key, model[key]);
    keys.push_back(key);
  }
  ExpectFinds(index, model, keys);
  for (std::size_t i = 0; i < keys.size(); i += 2) {
    index.Erase(keys[i]);
    model.erase(keys[i]);
  }
  ExpectFinds(index, model, keys);
}

INSTANTIATE_TEST_SUITE_P(Isas, RowIndexOn, testing::Values(Isa::kBaseline, Isa::kAvx2, Isa::kAvx512),
                         [](const auto& test) {
                           return test.param == Isa::kBaseline ? "Baseline"
                                                               : (test.param == Isa::kAvx2 ? "Avx2" : "Avx512");
                         });

TEST(RowIndex, EveryKeyIsLegal) {
  RowIndex index;
  const std::vector<std::uint64_t> keys = {0, ~0ULL, ~0U, 1, 1ULL << 63};
  for (std::uint32_t i = 0; i < keys.size(); ++i) index.Insert(keys[i], i);
  for (std::uint32_t i = 0; i < keys.size(); ++i) EXPECT_EQ(index.Find(keys[i]), i);
}

// For every size, so in every phase of a growth, and for shards of any width.
TEST(RowIndex, CollectsEachVshardWholeWhileItGrows) {
  for (const VshardRange range : {VshardRange{0, 1024}, VshardRange{341, 683}, VshardRange{1023, 1024}}) {
    RowIndex index(range);
    std::unordered_map<std::uint32_t, std::vector<std::uint64_t>> expected;
    for (std::uint64_t key = 0; key < 400'000; ++key) {
      const std::uint32_t vshard = VshardOf(key);
      if (vshard < range.first || vshard >= range.end) continue;
      index.Insert(key, static_cast<std::uint32_t>(key));
      expected[vshard].push_back(key);
      if (index.size() % 7'919 != 0 && index.size() != 100) continue;
      std::vector<RowIndex::Slot> slots;
      for (std::uint32_t v = range.first; v < range.end; ++v) {
        slots.clear();
        index.Collect(v, &slots);
        std::sort(slots.begin(), slots.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
        ASSERT_EQ(slots.size(), expected[v].size()) << "vshard " << v << " of " << index.size() << " keys";
        for (std::size_t i = 0; i < slots.size(); ++i) {
          ASSERT_EQ(slots[i].key, expected[v][i]);
          ASSERT_EQ(slots[i].row, static_cast<std::uint32_t>(slots[i].key));
        }
      }
    }
    EXPECT_GT(index.size(), 300U);
  }
}

TEST(RowIndex, TakesLittleMemoryAKeyAtEverySize) {
  RowIndex index;
  EXPECT_EQ(index.memory_bytes(), 0U);
  for (std::uint32_t key = 0; key < 1'000'000; ++key) {
    index.Insert(key, key);
    if (key > 100'000 && key % 1'000 == 0) {
      // 64 bytes for 5 keys, least used when a growth has begun: 25/32 of the old array, which is 4/5 of the new.
      ASSERT_LT(static_cast<double>(index.memory_bytes()), 64.0 / 5 * 32 / 25 * 5 / 4 * key + 8192) << key;
    }
  }
  index.Clear();
  EXPECT_EQ(index.memory_bytes(), 0U);
  EXPECT_EQ(index.Find(5), RowIndex::kNoRow);
  index.Insert(5, 1);
  EXPECT_EQ(index.Find(5), 1U);
}

// Of a growing array every page that it comes to touch, from its end down, once, a little ahead; memory_bytes has them.
TEST(RowIndex, AsksForPagesOfTheGrowingArray) {
#ifdef GATEMILL_SANITIZED
  GTEST_SKIP() << "14 million inserts take minutes under a sanitizer";
#endif
  PagesAsked asked;
  RowIndex index({}, BestIsa(), &asked);
  RowIndex plain;
  std::uint32_t keys = 0;
  const auto insert = [&] {
    const std::uint64_t key = Mix64(keys);
    index.Insert(key, keys);
    plain.Insert(key, keys++);
  };
  while (asked.pieces.empty()) {
    insert();
    ASSERT_LT(keys, 10'000'000U) << "no page was asked for";
  }
  ASSERT_GE(plain.memory_bytes(), Pages::kPreparedFromBytes / 5 * 4 - Pages::kHugeBytes);
  // Through the growth that has begun: it adds 26 MiB.
  std::size_t seen = 1;
  for (int i = 0; i < 1'100'000; ++i) {
    insert();
    for (; seen < asked.pieces.size(); ++seen) {
      ASSERT_EQ(asked.pieces[seen].end, asked.pieces[seen - 1].begin) << "a page was asked for twice, or left out";
    }
    if (i % 1000 != 0) continue;
    ASSERT_GE(index.memory_bytes(), plain.memory_bytes());
    ASSERT_LE(index.memory_bytes(), plain.memory_bytes() + (8U << 20));
    if (i == 100'000) {
      ASSERT_GE(index.memory_bytes(), plain.memory_bytes() + (4U << 20)) << "not ahead";
    }
  }
  EXPECT_EQ(index.memory_bytes(), plain.memory_bytes()) << "the growth is over";
  EXPECT_GE(asked.total, 24U << 20);
  index.Clear();
  EXPECT_TRUE(asked.pieces.empty());
}

}  // namespace
}  // namespace gatemill::ps
