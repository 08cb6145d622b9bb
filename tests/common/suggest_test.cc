#include "common/suggest.h"

#include <gtest/gtest.h>

namespace gatemill {
namespace {

TEST(SuggestTest, EditDistanceCountsEditsAndSwaps) {
  EXPECT_EQ(EditDistance("", "abc"), 3U);
  EXPECT_EQ(EditDistance("expert", "expert"), 0U);
  EXPECT_EQ(EditDistance("Expert", "expert"), 0U);
  EXPECT_EQ(EditDistance("expret", "expert"), 1U);
  EXPECT_EQ(EditDistance("num_expert", "num_experts"), 1U);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3U);
}

TEST(SuggestTest, NearestKeepsToItsLimit) {
  EXPECT_EQ(Nearest("usr_id", {"video_id", "user_id"}), "user_id");
  EXPECT_EQ(Nearest("zebra", {"video_id", "user_id"}), "");
  EXPECT_EQ(Nearest("abcd", {"abxy"}, 1), "");
  EXPECT_EQ(Nearest("abcd", {"abxy", "abxd"}, 2), "abxd");
  EXPECT_EQ(Nearest("x", {}), "");
}

}  // namespace
}  // namespace gatemill
