#include "worker/data/filter.h"

#include <gtest/gtest.h>

#include <map>

namespace gatemill::data {
namespace {

const std::vector<std::string> kColumns = {"date", "tab", "video_type", "101", "follow range"};

bool Keeps(const std::string& expression, const std::map<std::string, std::string>& row) {
  const Result<Filter> filter = Filter::Parse(expression, kColumns);
  EXPECT_TRUE(filter.ok()) << filter.status().message();
  if (!filter.ok()) return false;
  std::vector<std::string_view> values;
  for (const std::string& column : filter->columns()) values.emplace_back(row.at(column));
  return filter->Keep(values);
}

std::string Mistake(const std::string& expression) {
  const Result<Filter> filter = Filter::Parse(expression, kColumns);
  EXPECT_FALSE(filter.ok()) << expression;
  EXPECT_EQ(filter.status().code(), Code::kInvalidInput);
  return filter.status().message();
}

TEST(FilterTest, EmptyKeepsEveryRow) {
  const Result<Filter> filter = Filter::Parse("  ", kColumns);
  ASSERT_TRUE(filter.ok());
  EXPECT_TRUE(filter->columns().empty());
  EXPECT_TRUE(filter->Keep({}));
}

TEST(FilterTest, NumbersCompareAsNumbers) {
  EXPECT_TRUE(Keeps("date < 20220429", {{"date", "20220428"}}));
  EXPECT_FALSE(Keeps("date < 20220429", {{"date", "20220429"}}));
  EXPECT_TRUE(Keeps("date <= 20220429", {{"date", "20220429.0"}}));
  EXPECT_TRUE(Keeps("date == 20220429", {{"date", "20220429.0"}}));
  EXPECT_FALSE(Keeps("date != 20220429", {{"date", "20220429.0"}}));
  EXPECT_TRUE(Keeps("tab > 9", {{"tab", "10"}}));
  EXPECT_FALSE(Keeps("tab >= 9", {{"tab", "8"}}));
  EXPECT_TRUE(Keeps("101 == -1.5", {{"101", "-1.50"}}));
}

TEST(FilterTest, TextComparesAsText) {
  EXPECT_TRUE(Keeps("video_type == NORMAL", {{"video_type", "NORMAL"}}));
  EXPECT_TRUE(Keeps("video_type != 'AD'", {{"video_type", "NORMAL"}}));
  EXPECT_TRUE(Keeps("video_type < \"b c\"", {{"video_type", "a"}}));
  EXPECT_TRUE(Keeps("`follow range` == '[1,5)'", {{"follow range", "[1,5)"}}));
}

TEST(FilterTest, AMissingNumberPassesNoOrder) {
  EXPECT_FALSE(Keeps("tab < 5", {{"tab", ""}}));
  EXPECT_FALSE(Keeps("tab >= 5", {{"tab", "?"}}));
  EXPECT_TRUE(Keeps("not tab < 5", {{"tab", ""}}));
}

TEST(FilterTest, Lists) {
  EXPECT_TRUE(Keeps("tab in [1, 2]", {{"tab", "2.0"}}));
  EXPECT_FALSE(Keeps("tab in [1, 2]", {{"tab", "3"}}));
  EXPECT_TRUE(Keeps("video_type in [AD, 'NORMAL']", {{"video_type", "NORMAL"}}));
}

TEST(FilterTest, AndBindsCloserThanOr) {
  const std::map<std::string, std::string> row = {{"date", "1"}, {"tab", "2"}, {"101", "3"}};
  EXPECT_TRUE(Keeps("date == 1 or tab == 0 and 101 == 0", row));
  EXPECT_FALSE(Keeps("(date == 1 or tab == 0) and 101 == 0", row));
  EXPECT_TRUE(Keeps("not date == 0 and not (tab == 0 or 101 == 0)", row));
}

TEST(FilterTest, MistakesNamePositionAndNearestColumn) {
  EXPECT_EQ(Mistake("dat < 3"), "where: \"dat < 3\", position 1: unknown column \"dat\"; did you mean \"date\"?");
  EXPECT_NE(Mistake("date = 3").find("position 6: a comparison is written `==`"), std::string::npos);
  EXPECT_NE(Mistake("date < 3 tab").find("position 10: expected `and`, `or` or the end"), std::string::npos);
  EXPECT_NE(Mistake("date <").find("position 7: expected a number or a text, found the end"), std::string::npos);
  EXPECT_NE(Mistake("(date < 3").find("expected `)`"), std::string::npos);
  EXPECT_NE(Mistake("tab in 3").find("expected `[`"), std::string::npos);
  EXPECT_NE(Mistake("tab in [1").find("expected `,` or `]`"), std::string::npos);
  EXPECT_NE(Mistake("tab == 'x").find("is not closed"), std::string::npos);
  EXPECT_NE(Mistake("tab == $").find("unexpected character"), std::string::npos);
  EXPECT_NE(Mistake("and").find("unknown column"), std::string::npos);
  EXPECT_NE(Mistake(std::string(500, '(') + "tab == 1").find("nested"), std::string::npos);
}

}  // namespace
}  // namespace gatemill::data
