#include "ps/key_split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/keys.h"
#include "common/random.h"

namespace gatemill::ps {
namespace {

std::vector<std::uint64_t> Keys(std::size_t n) {
  std::vector<std::uint64_t> keys = {0, 1, ~0ULL};
  RandomStream random(7, 0);
  while (keys.size() < n) keys.push_back(random());
  keys.resize(n);
  return keys;
}

class EveryIsa : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!IsaSupported(GetParam())) GTEST_SKIP() << "this CPU lacks the instructions";
  }
};

// The same object again and again: nothing is left of what it held before.
TEST_P(EveryIsa, EachShardGetsItsKeysInTheCallersOrder) {
  KeySplit split;
  for (const std::uint32_t num_shards : {2U, 3U, 1U, 4U, 5U, 40U, 1024U}) {
    for (const std::size_t n : {1'000U, 0U, 1U, 7U, 333U}) {
      const std::vector<std::uint64_t> keys = Keys(n);
      split.Assign(keys, num_shards, GetParam());
      EXPECT_EQ(split.whole(), num_shards == 1);
      std::vector<std::uint64_t> gathered(n);
      split.Gather(keys, gathered.data());
      ASSERT_EQ(split.shards().size(), num_shards == 1 ? 0 : n);
      for (std::size_t i = 0; i < split.shards().size(); ++i) ASSERT_EQ(split.shards()[i], ShardOf(keys[i], num_shards));
      std::vector<std::uint32_t> all;
      for (std::uint32_t shard = 0; shard < num_shards; ++shard) {
        std::vector<std::uint32_t> expected;
        for (std::uint32_t i = 0; i < n; ++i) {
          if (ShardOf(keys[i], num_shards) == shard) expected.push_back(i);
        }
        ASSERT_EQ(split.begin(shard), all.size());
        ASSERT_EQ(split.count(shard), expected.size());
        const std::span<const std::uint32_t> places = split.places(shard);
        if (num_shards != 1) {
          ASSERT_EQ(std::vector<std::uint32_t>(places.begin(), places.end()), expected);
        } else {
          ASSERT_TRUE(places.empty());
        }
        for (std::uint32_t j = 0; j < expected.size(); ++j) {
          ASSERT_EQ(gathered[split.begin(shard) + j], keys[expected[j]]);
        }
        all.insert(all.end(), expected.begin(), expected.end());
      }
      if (num_shards == 1) all.clear();
      ASSERT_EQ(std::vector<std::uint32_t>(split.places().begin(), split.places().end()), all);
    }
  }
}

TEST_P(EveryIsa, OneStrangerIsFoundWhereverItIs) {
  for (const std::uint32_t num_shards : {1U, 2U, 3U, 7U, 1024U}) {
    std::vector<std::vector<std::uint64_t>> of_shard(num_shards);
    for (const std::uint64_t key : Keys(20'000)) of_shard[ShardOf(key, num_shards)].push_back(key);
    for (std::uint32_t shard = 0; shard < num_shards; ++shard) {
      std::vector<std::uint64_t> keys = of_shard[shard];
      EXPECT_TRUE(AllOfShard(keys, shard, num_shards, GetParam()));
      if (num_shards == 1 || keys.empty()) continue;
      for (const std::size_t at : {std::size_t{0}, keys.size() / 2, keys.size() - 1}) {
        const std::uint64_t mine = keys[at];
        for (const std::uint32_t other : {(shard + 1) % num_shards, (shard + num_shards - 1) % num_shards}) {
          if (of_shard[other].empty()) continue;
          keys[at] = of_shard[other][0];
          EXPECT_FALSE(AllOfShard(keys, shard, num_shards, GetParam())) << shard << " of " << num_shards << " at " << at;
        }
        keys[at] = mine;
      }
    }
  }
  EXPECT_TRUE(AllOfShard({}, 1, 2, GetParam()));
}

std::string IsaName(const testing::TestParamInfo<Isa>& test) {
  if (test.param == Isa::kBaseline) return "Baseline";
  return test.param == Isa::kAvx2 ? "Avx2" : "Avx512";
}
INSTANTIATE_TEST_SUITE_P(Isas, EveryIsa, testing::Values(Isa::kBaseline, Isa::kAvx2, Isa::kAvx512), IsaName);

}  // namespace
}  // namespace gatemill::ps
