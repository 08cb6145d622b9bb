#include "worker/data/text.h"

#include <gtest/gtest.h>

namespace gatemill::data {
namespace {

TEST(TextTest, NumbersAsPeopleWriteThem) {
  EXPECT_EQ(ParseNumber("0"), 0.0);
  EXPECT_EQ(ParseNumber("-17"), -17.0);
  EXPECT_EQ(ParseNumber(" 73 "), 73.0);
  EXPECT_EQ(ParseNumber("+7"), 7.0);
  EXPECT_EQ(ParseNumber("0.4734"), 0.4734);
  EXPECT_EQ(ParseNumber("-.5e2"), -50.0);
  EXPECT_EQ(ParseNumber("999999999999999"), 999999999999999.0);
  EXPECT_EQ(ParseNumber("1234567890123456789"), 1234567890123456789.0);
}

TEST(TextTest, WhatIsNoNumber) {
  for (const char* text : {"", " ", "-", "+", "+-1", "abc", "1x", "1 2", "nan", "inf", "-inf", "1e999", "0x10", "1,5"}) {
    EXPECT_FALSE(ParseNumber(text).has_value()) << text;
  }
}

TEST(TextTest, SuggestColumn) {
  const std::vector<std::string> names = {"user_id", "video_id", "tab"};
  EXPECT_EQ(SuggestColumn("tap", names), "; did you mean \"tab\"?");
  EXPECT_EQ(SuggestColumn("duration", names), "; the columns are user_id, video_id, tab");
}

TEST(TextTest, LongValuesAreCut) {
  EXPECT_EQ(Quoted("ab"), "\"ab\"");
  EXPECT_EQ(Quoted(std::string(100, 'x')), "\"" + std::string(60, 'x') + "...\"");
}

TEST(TextTest, MissingValues) {
  const MissingValues missing({"?", ""});
  EXPECT_TRUE(missing.contains(""));
  EXPECT_TRUE(missing.contains("?"));
  EXPECT_FALSE(missing.contains(" ?"));
}

}  // namespace
}  // namespace gatemill::data
