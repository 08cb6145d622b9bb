// The public data sets as they are; skipped aloud where they are not.
#include <cmath>

#include "tests/worker/data/data_testing.h"
#include "worker/data/profile.h"

namespace gatemill::data {
namespace {

std::uint64_t RowsOf(const Prepared& setup, Part part, bool fit, Statistics* statistics) {
  const auto dataset = ReadDataset(setup.read, part, nullptr, fit, statistics);
  EXPECT_TRUE(dataset.ok()) << dataset.status().message();
  return dataset.ok() ? (*dataset)->rows() : 0;
}

TEST(RealDataTest, Census) {
  Config config;
  config.data.root = RealData("census-income");
  if (config.data.root.empty()) GTEST_SKIP() << "no census-income; set GATEMILL_DATA";
  config.data.train.files = {"train.csv.gz"};
  config.data.valid.files = {"valid.csv.gz"};
  config.data.test.files = {"test.csv.gz"};
  config.data.missing = {"?", ""};
  config.data.sample_weight = "instance_weight";
  config.tasks = {Task("income", "bce"), Task("never_married", "bce")};
  config.features = {Dense({"age", "wage_per_hour", "weeks_worked"}, {"log1p", "minmax"}),
                     Sparse({"class_worker", "mig_*", "det_hh_fam_stat"}, 8)};
  const Prepared setup(config);
  Statistics statistics;
  EXPECT_EQ(RowsOf(setup, Part::kTrain, true, &statistics), 199'523U);
  EXPECT_EQ(RowsOf(setup, Part::kValid, false, &statistics), 49'881U);
  EXPECT_EQ(RowsOf(setup, Part::kTest, false, &statistics), 49'881U);
  EXPECT_EQ(statistics.dense[0].max, std::log1p(90.0));
  EXPECT_EQ(setup.schema.sparse.size(), 7U);
}

TEST(RealDataTest, CensusHasNoLeakAmongItsFeatures) {
  DataConfig data;
  data.root = RealData("census-income");
  if (data.root.empty()) GTEST_SKIP() << "no census-income; set GATEMILL_DATA";
  data.train.files = {"train.csv.gz"};
  const auto scores = ScoreColumns(data, data.train, {"income", "never_married"},
                                   {"age", "det_hh_fam_stat", "det_hh_summ", "tax_filer_stat", "weeks_worked",
                                    "det_occ_code", "sex", "capital_gains", "marital_stat"},
                                   kProfileRows);
  ASSERT_TRUE(scores.ok());
  for (const ColumnScore& score : *scores) {
    EXPECT_EQ(score.leaks, score.label == "never_married" && score.column == "marital_stat")
        << score.label << " " << score.column << " " << score.auc;
  }
}

TEST(RealDataTest, KuaiRand) {
  Config config;
  config.data.root = RealData("kuairand");
  if (config.data.root.empty()) GTEST_SKIP() << "no kuairand; set GATEMILL_DATA";
  config.data.train = {{"train.csv.gz"}, "date < 20220429"};
  config.data.valid = {{"train.csv.gz"}, "date == 20220429"};
  config.data.test.files = {"valid.csv.gz"};
  config.tasks = {Task("is_click", "bce"), Task("long_view", "bce"), Task("play_time_ms", "mse")};
  config.features = {Sparse({"user_id", "video_id", "onehot_feat*", "*_range"}, 4), Sparse({"tag"}, 8),
                     Dense({"duration_ms"}, {"log1p", "zscore"}), Sparse({"duration_ms"}, 8)};
  config.features[1].separator = "|";
  config.features[3].name = "duration_bucket";
  config.features[3].bucketize.quantiles = 32;
  const Prepared setup(config);
  Statistics statistics;
  const std::uint64_t train = RowsOf(setup, Part::kTrain, true, &statistics);
  const std::uint64_t valid = RowsOf(setup, Part::kValid, false, &statistics);
  EXPECT_EQ(train + valid, 71'292U);
  EXPECT_GT(valid, 1'000U);
  EXPECT_EQ(statistics.sparse_boundaries.back().size(), 31U);
  EXPECT_GT(RowsOf(setup, Part::kTest, false, &statistics), 10'000U);
  const auto scores = ScoreColumns(config.data, config.data.train, {"is_click"},
                                   {"play_time_ms", "tab", "tag", "duration_ms", "user_id", "video_id"}, kProfileRows);
  ASSERT_TRUE(scores.ok());
  for (const ColumnScore& score : *scores) EXPECT_EQ(score.leaks, score.column == "play_time_ms") << score.column;
}

TEST(RealDataTest, ByteRec) {
  Config config;
  config.data.root = RealData("byterec");
  if (config.data.root.empty()) GTEST_SKIP() << "no byterec; set GATEMILL_DATA";
  config.data.train.files = {"byterec_sample.txt"};
  config.data.header = false;
  config.data.column_names = {"uid",    "user_city", "item_id",  "author_id", "item_city", "channel",
                              "finish", "like",      "music_id", "device",    "time",      "duration_time"};
  config.data.split.ratio = 0.8;
  config.tasks = {Task("finish", "bce"), Task("like", "bce")};
  config.features = {Sparse({"uid", "item_id", "channel"}, 4), Dense({"duration_time"}, {"minmax"})};
  const Prepared setup(config);
  Statistics statistics;
  EXPECT_EQ(RowsOf(setup, Part::kTrain, true, &statistics), 160U);
  EXPECT_EQ(RowsOf(setup, Part::kValid, false, &statistics), 40U);
}

TEST(RealDataTest, AliCcp) {
  Config config;
  config.data.root = RealData("ali-ccp");
  if (config.data.root.empty()) GTEST_SKIP() << "no ali-ccp; set GATEMILL_DATA";
  config.data.train.files = {"ali_ccp_train_sample.csv"};
  config.data.valid.files = {"ali_ccp_val_sample.csv"};
  config.data.test.files = {"ali_ccp_test_sample.csv"};
  config.tasks = {Task("click", "bce"), Task("purchase", "bce")};
  config.features = {Sparse({"1??", "2??"}, 4), Dense({"D508", "D509"}, {"zscore"})};
  const Prepared setup(config);
  EXPECT_EQ(setup.schema.sparse.size(), 14U);
  Statistics statistics;
  EXPECT_EQ(RowsOf(setup, Part::kTrain, true, &statistics), 100U);
  EXPECT_EQ(RowsOf(setup, Part::kValid, false, &statistics), 50U);
  EXPECT_EQ(RowsOf(setup, Part::kTest, false, &statistics), 50U);
}

}  // namespace
}  // namespace gatemill::data
