#include "ps/store/record_format.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/keys.h"
#include "common/random.h"

namespace gatemill::ps {
namespace {

std::string_view Text(const RecordKey& key) { return {key.data(), key.size()}; }

TEST(RecordFormat, KeysSortByTableVshardKey) {
  RandomStream random(3, 0);
  for (int i = 0; i < 2000; ++i) {
    const StoreKey a{.table = static_cast<std::uint32_t>(random.Below(3)), .key = random()};
    const StoreKey b{.table = static_cast<std::uint32_t>(random.Below(3)), .key = random()};
    const auto order = [](StoreKey key) { return std::make_tuple(key.table, VshardOf(key.key), key.key); };
    EXPECT_EQ(Text(EncodeRecordKey(a)) < Text(EncodeRecordKey(b)), order(a) < order(b));
    EXPECT_LE(Text(FirstRecordKey(a.table, VshardOf(a.key))), Text(EncodeRecordKey(a)));
    EXPECT_GT(Text(FirstRecordKey(a.table, VshardOf(a.key) + 1)), Text(EncodeRecordKey(a)));
  }
}

TEST(RecordFormat, KeysAndRecordsComeBack) {
  const StoreKey key{.table = 0x01020304, .key = 0xfffefdfcfbfaf9f8ULL};
  StoreKey back;
  ASSERT_TRUE(DecodeRecordKey(Text(EncodeRecordKey(key)), &back));
  EXPECT_EQ(back.table, key.table);
  EXPECT_EQ(back.key, key.key);
  std::string bytes;
  EncodeRecord(std::vector<float>{1.5F, -0.0F, 3e38F}, {.updates = 7, .last_step = 9}, &bytes);
  EXPECT_EQ(bytes.size(), 1U + 8 + 12);
  std::vector<float> values;
  RowHeader header;
  ASSERT_TRUE(DecodeRecord(bytes, &values, &header));
  EXPECT_EQ(values, (std::vector<float>{1.5F, -0.0F, 3e38F}));
  EXPECT_EQ(header.updates, 7U);
  EXPECT_EQ(header.last_step, 9U);
}

// UBSan reports a copy from or to nowhere, of no bytes too.
TEST(RecordFormat, ARowWithoutFloatsComesBack) {
  std::string bytes;
  EncodeRecord({}, {.updates = 1, .last_step = 2}, &bytes);
  std::vector<float> values;
  RowHeader header;
  ASSERT_TRUE(DecodeRecord(bytes, &values, &header));
  EXPECT_TRUE(values.empty());
  EXPECT_EQ(header.last_step, 2U);
}

TEST(RecordFormat, RefusesWhatIsNoRecord) {
  StoreKey key;
  EXPECT_FALSE(DecodeRecordKey("short", &key));
  RecordKey wrong_vshard = EncodeRecordKey({.table = 1, .key = 2});
  wrong_vshard[5] = static_cast<char>(wrong_vshard[5] ^ 1);
  EXPECT_FALSE(DecodeRecordKey(Text(wrong_vshard), &key));
  std::string bytes;
  EncodeRecord(std::vector<float>{1.0F}, {}, &bytes);
  std::vector<float> values;
  RowHeader header;
  EXPECT_FALSE(DecodeRecord(bytes.substr(0, 11), &values, &header));
  EXPECT_FALSE(DecodeRecord(bytes.substr(0, 3), &values, &header));
  bytes[0] = 2;
  EXPECT_FALSE(DecodeRecord(bytes, &values, &header));
}

}  // namespace
}  // namespace gatemill::ps
