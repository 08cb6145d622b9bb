#include "worker/data/profile.h"

#include "common/random.h"
#include "tests/worker/data/data_testing.h"

namespace gatemill::data {
namespace {

// A log whose click follows a hidden chance that `hint` tells roughly; `after` is written after the click.
std::string LeakyLog() {
  RandomStream random(5, 0);
  std::string text = "click,hint,after,noise,name,const,tags,range\n";
  for (int i = 0; i < 4000; ++i) {
    const std::uint64_t hint = random.Below(40);
    const bool click = random.Uniform() < 0.1 + 0.02 * static_cast<double>(hint);
    const std::uint64_t after = click ? 1000 + random.Below(9000) : random.Below(1100);
    text += std::string(click ? "1" : "0") + "," + std::to_string(hint) + "," + std::to_string(after) + ",v" +
            std::to_string(random.Below(2000)) + ",n" + std::to_string(i) + ",k,t" + std::to_string(random.Below(9)) +
            "|t" + std::to_string(random.Below(9)) + "," + (i % 10 == 0 ? "" : i % 2 == 0 ? "\"[1,5)\"" : "\"[5,9)\"") +
            "\n";
  }
  return text;
}

TEST(ProfileTest, GuessesWhatColumnsHold) {
  const TempDir dir;
  DataConfig data;
  data.train.files = {dir.Write("f.csv", LeakyLog())};
  const Result<DataProfile> profile = ProfileData(data, data.train, 3000);
  ASSERT_TRUE(profile.ok()) << profile.status().message();
  EXPECT_EQ(profile->rows, 3000U);
  std::map<std::string, ColumnProfile> by_name;
  for (const ColumnProfile& column : profile->columns) by_name[column.name] = column;
  EXPECT_EQ(by_name["click"].kind, ColumnKind::kId);
  EXPECT_EQ(by_name["hint"].kind, ColumnKind::kNumber);
  EXPECT_EQ(by_name["hint"].distinct, 40U);
  EXPECT_EQ(by_name["hint"].min, 0.0);
  EXPECT_EQ(by_name["hint"].max, 39.0);
  EXPECT_EQ(by_name["noise"].kind, ColumnKind::kId);
  EXPECT_EQ(by_name["name"].kind, ColumnKind::kUnique);
  EXPECT_EQ(by_name["const"].kind, ColumnKind::kConstant);
  EXPECT_EQ(by_name["const"].examples, (std::vector<std::string>{"k"}));
  EXPECT_EQ(by_name["tags"].kind, ColumnKind::kList);
  EXPECT_EQ(by_name["tags"].separator, "|");
  EXPECT_EQ(by_name["range"].kind, ColumnKind::kId) << "a range is no list of two";
  EXPECT_DOUBLE_EQ(by_name["range"].missing_share, 0.1);
  EXPECT_EQ(by_name["range"].examples.size(), 2U);
  EXPECT_STREQ(ColumnKindName(ColumnKind::kList), "list");
}

TEST(ProfileTest, ColumnsNamedAnIdAreIds) {
  const TempDir dir;
  std::string text = "user_id,price\n";
  for (int i = 0; i < 200; ++i) text += std::to_string(i % 100) + "," + std::to_string(i % 3) + ".5\n";
  DataConfig data;
  data.train.files = {dir.Write("f.csv", text)};
  const Result<DataProfile> profile = ProfileData(data, data.train, kProfileRows);
  ASSERT_TRUE(profile.ok());
  EXPECT_EQ(profile->columns[0].kind, ColumnKind::kId);
  EXPECT_EQ(profile->columns[1].kind, ColumnKind::kNumber) << "amounts have fractions";
}

TEST(ProfileTest, FindsTheColumnThatGivesTheLabelAway) {
  const TempDir dir;
  DataConfig data;
  data.train.files = {dir.Write("f.csv", LeakyLog())};
  const auto scores = ScoreColumns(data, data.train, {"click"}, {"noise", "hint", "after", "name", "const"}, kProfileRows);
  ASSERT_TRUE(scores.ok()) << scores.status().message();
  ASSERT_EQ(scores->size(), 5U);
  EXPECT_EQ((*scores)[0].column, "after");
  EXPECT_GT((*scores)[0].auc, 0.98);
  EXPECT_TRUE((*scores)[0].leaks);
  EXPECT_EQ((*scores)[1].column, "hint");
  EXPECT_GT((*scores)[1].auc, 0.65);
  for (std::size_t i = 1; i < 5; ++i) EXPECT_FALSE((*scores)[i].leaks) << (*scores)[i].column;
  for (const ColumnScore& score : *scores) {
    if (score.column == "const" || score.column == "name") {
      EXPECT_EQ(score.auc, 0.5) << score.column;
    }
    if (score.column == "noise") {
      EXPECT_LT(score.auc, 0.58) << "values seen once prove nothing";
    }
  }
}

TEST(ProfileTest, TooFewOfAClassProveNothing) {
  const TempDir dir;
  std::string text = "y,x\n";
  for (int i = 0; i < 100; ++i) text += std::string(i < 10 ? "1" : "0") + "," + std::to_string(i) + "\n";
  DataConfig data;
  data.train.files = {dir.Write("f.csv", text)};
  const auto scores = ScoreColumns(data, data.train, {"y"}, {"x"}, kProfileRows);
  ASSERT_TRUE(scores.ok());
  EXPECT_EQ((*scores)[0].auc, 1.0);
  EXPECT_FALSE((*scores)[0].leaks);
}

TEST(ProfileTest, ALabelThatIsNoNumber) {
  const TempDir dir;
  DataConfig data;
  data.train.files = {dir.Write("f.csv", "y,x\nyes,1\n")};
  EXPECT_EQ(ScoreColumns(data, data.train, {"y"}, {"x"}, 10).status().code(), Code::kInvalidInput);
  EXPECT_EQ(ScoreColumns(data, data.train, {"z"}, {"x"}, 10).status().code(), Code::kInvalidInput);
}

}  // namespace
}  // namespace gatemill::data
