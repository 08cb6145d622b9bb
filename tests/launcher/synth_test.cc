#include "launcher/synth.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "common/file.h"

namespace gatemill::launcher {
namespace {

class SynthTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    directory_ = testing::TempDir() + "synth_" + info->name() + "_" + std::to_string(::getpid());
    ASSERT_TRUE(RemoveTree(directory_).ok());
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(directory_).ok()); }

  // Options that write `rows` rows below the test's own directory.
  [[nodiscard]] ClickLogOptions Options(std::int64_t rows, const std::string& name = "log") const {
    return {.output = directory_ + "/" + name, .rows = rows};
  }
  static std::string Contents(const ClickLogOptions& options, const std::string& file) {
    const auto text = ReadFile(options.output + "/" + file);
    EXPECT_TRUE(text.ok()) << text.status().message();
    return text.ok() ? *text : "";
  }
  // Rows of cells, the header's line included.
  static std::vector<std::vector<std::string>> Cells(const std::string& csv) {
    std::vector<std::vector<std::string>> rows;
    std::istringstream lines(csv);
    for (std::string line; std::getline(lines, line);) {
      std::istringstream cells(line);
      rows.emplace_back();
      for (std::string cell; std::getline(cells, cell, ',');) rows.back().push_back(cell);
    }
    return rows;
  }

  std::string directory_;
};

TEST_F(SynthTest, WritesThePartsWithAHeaderAndTheAskedNumberOfRows) {
  ClickLogOptions options = Options(3000);
  options.valid_rows = 200;
  options.test_rows = 400;
  const auto report = WriteClickLog(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  const std::map<std::string, std::size_t> expected{{"train.csv", 3000}, {"valid.csv", 200}, {"test.csv", 400}};
  for (const auto& [file, rows] : expected) {
    const std::string text = Contents(options, file);
    EXPECT_EQ(text.substr(0, text.find('\n')), kClickLogHeader) << file;
    const auto cells = Cells(text);
    ASSERT_EQ(cells.size(), rows + 1) << file;
    for (const auto& row : cells) ASSERT_EQ(row.size(), 9U) << file;
  }
  EXPECT_EQ(report->users, 50);
  EXPECT_EQ(report->items, 10);
  const auto files = ListDir(options.output);
  ASSERT_TRUE(files.ok());
  EXPECT_EQ(*files, (std::vector<std::string>{"test.csv", "train.csv", "truth.json", "valid.csv"}));
}

TEST_F(SynthTest, APurchaseIsAClickAndTheRatesAreThoseOfAShop) {
  const ClickLogOptions options = Options(50'000);
  const auto report = WriteClickLog(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_GT(report->click_rate, 0.05);
  EXPECT_LT(report->click_rate, 0.15);
  EXPECT_GT(report->purchase_rate, 0.10);
  EXPECT_LT(report->purchase_rate, 0.20);
  std::size_t clicks = 0;
  for (const auto& row : Cells(Contents(options, "train.csv"))) {
    if (row[0] == "click") continue;
    clicks += row[0] == "1" ? 1 : 0;
    ASSERT_TRUE(row[1] == "0" || row[0] == "1") << "a purchase without a click";
  }
  EXPECT_NEAR(static_cast<double>(clicks) / 50'000, report->click_rate, 0.01);
}

TEST_F(SynthTest, EqualSeedsGiveEqualFilesAndOtherSeedsDoNot) {
  const ClickLogOptions first = Options(2000, "first");
  const ClickLogOptions again = Options(2000, "again");
  ClickLogOptions other = Options(2000, "other");
  other.seed = 2;
  for (const ClickLogOptions& options : {first, again, other}) ASSERT_TRUE(WriteClickLog(options).ok());
  for (const std::string file : {"train.csv", "valid.csv", "test.csv", "truth.json"}) {
    EXPECT_EQ(Contents(first, file), Contents(again, file)) << file;
    EXPECT_NE(Contents(first, file), Contents(other, file)) << file;
  }
}

TEST_F(SynthTest, TheBestAucIsWellAboveChanceAndWrittenBesideTheData) {
  const ClickLogOptions options = Options(50'000);
  const auto report = WriteClickLog(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  ASSERT_TRUE(report->best_click_auc && report->best_purchase_auc);
  EXPECT_GT(*report->best_click_auc, 0.70);
  EXPECT_LT(*report->best_click_auc, 0.95);
  EXPECT_GT(*report->best_purchase_auc, *report->best_click_auc);  // price, age and device decide it more than taste
  EXPECT_EQ(Contents(options, "truth.json"), ClickLogReportToJson(*report) + "\n");
}

TEST_F(SynthTest, PopularityFollowsZipfAndItsTopIsReported) {
  ClickLogOptions options = Options(30'000);
  options.users = 100;
  options.zipf = 1.0;
  const auto report = WriteClickLog(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  std::map<std::string, double> rows_of_user;
  for (const auto& row : Cells(Contents(options, "train.csv"))) rows_of_user[row[2]] += 1.0;
  rows_of_user.erase("user_id");
  std::vector<double> counts;
  for (const auto& [user, rows] : rows_of_user) counts.push_back(rows);
  std::sort(counts.rbegin(), counts.rend());
  const double expected_top = 30'000 / 5.187;  // the harmonic number of 100
  EXPECT_NEAR(counts[0], expected_top, 0.05 * expected_top);
  EXPECT_NEAR(counts[1], expected_top / 2, 0.07 * expected_top / 2);
  EXPECT_EQ(rows_of_user[std::to_string(report->top_user)], counts[0]);
}

TEST_F(SynthTest, EveryUserHasOneAgeAndEveryItemOneCategory) {
  const ClickLogOptions options = Options(5000);
  ASSERT_TRUE(WriteClickLog(options).ok());
  std::map<std::string, std::set<std::string>> ages;
  std::map<std::string, std::set<std::string>> categories;
  for (const auto& row : Cells(Contents(options, "train.csv"))) {
    ages[row[2]].insert(row[8]);
    categories[row[3]].insert(row[4]);
  }
  for (const auto& [user, values] : ages) EXPECT_EQ(values.size(), 1U) << user;
  for (const auto& [item, values] : categories) EXPECT_EQ(values.size(), 1U) << item;
}

TEST_F(SynthTest, GzipWritesGzipFilesUnderTheirName) {
  ClickLogOptions options = Options(1000);
  options.gzip = true;
  ASSERT_TRUE(WriteClickLog(options).ok());
  const std::string text = Contents(options, "train.csv.gz");
  ASSERT_GT(text.size(), 2U);
  EXPECT_EQ(text.substr(0, 2), "\x1f\x8b");
  EXPECT_FALSE(FileExists(options.output + "/train.csv"));
}

TEST_F(SynthTest, ATestPartWithOneClassHasNoBestAuc) {
  ClickLogOptions options = Options(100);
  options.test_rows = 1;
  const auto report = WriteClickLog(options);
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_FALSE(report->best_click_auc.has_value());
  EXPECT_NE(ClickLogReportToJson(*report).find("\"best_auc\":{\"click\":null,\"purchase\":null}"), std::string::npos);
}

TEST_F(SynthTest, ImpossibleOptionsAreTheUsersMistakeAndWriteNothing) {
  const auto expect_refused = [&](auto change, const std::string& named) {
    ClickLogOptions options = Options(1000);
    change(&options);
    const auto report = WriteClickLog(options);
    ASSERT_FALSE(report.ok()) << named;
    EXPECT_EQ(report.status().code(), Code::kInvalidInput) << report.status().message();
    EXPECT_NE(report.status().message().find(named), std::string::npos) << report.status().message();
    EXPECT_FALSE(FileExists(Options(1000).output)) << named;
  };
  expect_refused([](ClickLogOptions* o) { o->rows = 0; }, "--rows 0");
  expect_refused([](ClickLogOptions* o) { o->valid_rows = -1; }, "--valid-rows -1");
  expect_refused([](ClickLogOptions* o) { o->test_rows = -1; }, "--test-rows -1");
  expect_refused([](ClickLogOptions* o) { o->users = -5; }, "--users -5");
  expect_refused([](ClickLogOptions* o) { o->items = 1'000'000'000; }, "--items 1000000000");
  expect_refused([](ClickLogOptions* o) { o->zipf = -1.0; }, "--zipf");
  expect_refused([](ClickLogOptions* o) { o->output = ""; }, "--output");
}

TEST_F(SynthTest, AnOutputThatIsAFileIsTheUsersMistake) {
  ASSERT_TRUE(MakeDirs(directory_).ok());
  const ClickLogOptions options = Options(1000, "occupied");
  ASSERT_TRUE(WriteFileAtomic(options.output, "mine").ok());
  const auto report = WriteClickLog(options);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.status().code(), Code::kInvalidInput);
  EXPECT_EQ(Contents(Options(1000, ""), "occupied"), "mine");
}

}  // namespace
}  // namespace gatemill::launcher
