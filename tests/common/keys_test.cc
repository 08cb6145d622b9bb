#include "common/keys.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace gatemill {
namespace {

const std::uint64_t kSalt = TableSalt("user");

TEST(Keys, NumbersHaveOneKeyInEverySpelling) {
  EXPECT_EQ(KeyOfInt(2, kSalt), KeyOfText("2", kSalt));
  EXPECT_EQ(KeyOfInt(2, kSalt), KeyOfText("2.0", kSalt));
  EXPECT_EQ(KeyOfInt(2, kSalt), KeyOfText("2.", kSalt));
  EXPECT_EQ(KeyOfInt(2, kSalt), KeyOfDouble(2.0, kSalt));
  EXPECT_EQ(KeyOfText("0.5", kSalt), KeyOfDouble(0.5, kSalt));
  EXPECT_EQ(KeyOfText("0.50", kSalt), KeyOfDouble(0.5, kSalt));
  EXPECT_EQ(KeyOfText("-0", kSalt), KeyOfInt(0, kSalt));
  EXPECT_EQ(KeyOfText("-0.0", kSalt), KeyOfDouble(-0.0, kSalt));
  EXPECT_EQ(KeyOfText("-17.00", kSalt), KeyOfInt(-17, kSalt));
  EXPECT_EQ(KeyOfText("100", kSalt), KeyOfDouble(100.0, kSalt));
}

TEST(Keys, TextThatOnlyLooksLikeANumberStaysText) {
  const std::set<std::uint64_t> keys{KeyOfText("007", kSalt), KeyOfText("7", kSalt),    KeyOfText("+7", kSalt),
                                     KeyOfText("7e0", kSalt), KeyOfText("00.0", kSalt), KeyOfText("0", kSalt),
                                     KeyOfText("", kSalt),    KeyOfText(".", kSalt),    KeyOfText("1.2.0", kSalt),
                                     KeyOfText("1.2", kSalt), KeyOfText("-", kSalt)};
  EXPECT_EQ(keys.size(), 11U);
}

TEST(Keys, TablesSaltTheirKeys) { EXPECT_NE(KeyOfInt(2, TableSalt("user")), KeyOfInt(2, TableSalt("item"))); }

TEST(Keys, ShardsPartTheVshardsInContiguousEvenRanges) {
  for (std::uint32_t shards : {1U, 2U, 3U, 7U, 1024U}) {
    std::vector<int> count(shards, 0);
    std::uint32_t previous = 0;
    for (std::uint32_t vshard = 0; vshard < kNumVshards; ++vshard) {
      const std::uint32_t shard = ShardOfVshard(vshard, shards);
      ASSERT_LT(shard, shards);
      ASSERT_GE(shard, previous);
      previous = shard;
      ++count[shard];
    }
    for (int n : count) EXPECT_NEAR(n, static_cast<double>(kNumVshards) / shards, 1.0);
  }
}

TEST(Keys, SmallKeysSpreadOverVshardsAndOovBuckets) {
  std::set<std::uint32_t> vshards;
  std::set<std::uint64_t> buckets;
  for (std::uint64_t key = 0; key < 10000; ++key) {
    vshards.insert(VshardOf(key));
    buckets.insert(OovBucketOf(key, 64));
  }
  EXPECT_EQ(vshards.size(), kNumVshards);
  EXPECT_EQ(buckets.size(), 64U);
}

}  // namespace
}  // namespace gatemill
