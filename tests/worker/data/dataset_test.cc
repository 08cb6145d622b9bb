#include "worker/data/dataset.h"

#include "common/keys.h"
#include "tests/worker/data/data_testing.h"

namespace gatemill::data {
namespace {

Batch WholeBatch(std::shared_ptr<const Dataset> dataset) {
  BatchOptions options;
  options.global_batch_size = dataset->rows();
  options.shuffle = false;
  auto stream = StreamDataset(std::move(dataset), options);
  EXPECT_TRUE(stream.ok());
  return std::move(TakeAll(stream->get()).at(0));
}

TEST(DatasetTest, ReadsValuesLabelsAndWeights) {
  const TempDir dir;
  Config config;
  config.data.train.files = {dir.Write("f.csv", "w,like,time,user\n0.5,1,2.5,ann\n2,0.0,-1,bob\n0,1.0,1e2,ann\n")};
  config.data.sample_weight = "w";
  config.tasks = {Task("like", "bce"), Task("time", "mse")};
  config.features = {Sparse({"user"}, 4)};
  const Prepared setup(config);
  Statistics statistics;
  const auto dataset = ReadDataset(setup.read, Part::kTrain, nullptr, true, &statistics);
  ASSERT_TRUE(dataset.ok()) << dataset.status().message();
  EXPECT_EQ((*dataset)->rows(), 3U);
  EXPECT_GT((*dataset)->memory_bytes(), 0U);
  const Batch batch = WholeBatch(*dataset);
  EXPECT_EQ(batch.labels, (std::vector<float>{1, 0, 1, 2.5, -1, 100}));
  EXPECT_EQ(batch.weights, (std::vector<float>{0.5, 2, 0}));
  const std::uint64_t salt = TableSalt("user");
  EXPECT_EQ(batch.tables[0].keys, (std::vector<std::uint64_t>{KeyOfText("ann", salt), KeyOfText("bob", salt)}));
}

TEST(DatasetTest, WeightsAndSpacesOfTasks) {
  const TempDir dir;
  Config config;
  config.data.train.files = {dir.Write("f.csv", "w,like,time,user\n0.5,1,2.5,ann\n2,0.0,-1,bob\n0,1.0,1e2,ann\n")};
  config.tasks = {Task("like", "bce"), Task("time", "mse")};
  config.tasks[1].sample_weight = "w";
  config.tasks[1].task_space_indicator_label = "like";
  config.tasks[1].in_task_space_weight = 3;
  config.tasks[1].out_task_space_weight = 0.25;
  config.features = {Sparse({"user"}, 4)};
  const Prepared setup(config);
  Statistics statistics;
  const auto dataset = ReadDataset(setup.read, Part::kTrain, nullptr, true, &statistics);
  ASSERT_TRUE(dataset.ok()) << dataset.status().message();
  const Batch batch = WholeBatch(*dataset);
  EXPECT_TRUE(batch.weights.empty());
  EXPECT_EQ(batch.task_weights, (std::vector<float>{1, 1, 1, 1.5, 0.5, 0}));
}

TEST(DatasetTest, StatisticsOfTrainApplyToOtherParts) {
  const TempDir dir;
  Config config;
  config.data.train.files = {dir.Write("train.csv", "y,x\n1,10\n0,20\n")};
  config.data.valid.files = {dir.Write("valid.csv", "y,x\n1,15\n0,40\n1,5\n")};
  config.tasks = {Task("y", "bce")};
  config.features = {Dense({"x"}, {"minmax"})};
  const Prepared setup(config);
  Statistics statistics;
  ASSERT_TRUE(ReadDataset(setup.read, Part::kTrain, nullptr, true, &statistics).ok());
  EXPECT_EQ(statistics.dense.at(0).min, 10.0);
  EXPECT_EQ(statistics.dense.at(0).max, 20.0);
  const auto valid = ReadDataset(setup.read, Part::kValid, nullptr, false, &statistics);
  ASSERT_TRUE(valid.ok());
  EXPECT_EQ(WholeBatch(*valid).dense, (std::vector<float>{0.5, 1.0, 0.0}));
  Statistics foreign;
  EXPECT_EQ(ReadDataset(setup.read, Part::kValid, nullptr, false, &foreign).status().code(), Code::kInvalidInput);
}

TEST(DatasetTest, FitStatisticsAgreesWithReadDataset) {
  const TempDir dir;
  Config config = SmallConfig(dir.Write("f.csv", SmallLog(500)));
  config.features[2].transform = {"log1p", "minmax", "zscore"};
  FeatureConfig buckets = Sparse({"age"}, 2);
  buckets.name = "age_bucket";
  buckets.bucketize.quantiles = 5;
  config.features.push_back(buckets);
  config.data.split.ratio = 0.6;
  const Prepared setup(config);
  Statistics read;
  ASSERT_TRUE(ReadDataset(setup.read, Part::kTrain, nullptr, true, &read).ok());
  const Result<Statistics> fitted = FitStatistics(setup.read);
  ASSERT_TRUE(fitted.ok());
  EXPECT_EQ(StatisticsToJson(*fitted), StatisticsToJson(read));
  EXPECT_EQ(read.sparse_boundaries[3].size(), 4U);
}

TEST(DatasetTest, LabelsMayBeAbsentForPredict) {
  const TempDir dir;
  Config config = SmallConfig(dir.Write("f.csv", SmallLog(10)));
  config.data.sample_weight = "";
  Prepared setup(config);
  PartConfig files;
  files.files = {dir.Write("new.csv", "user,item,tags,age\nu1,3,t1,25\n")};
  Statistics statistics;
  ASSERT_TRUE(ReadDataset(setup.read, Part::kTrain, nullptr, true, &statistics).ok());
  const auto with = ReadDataset(setup.read, Part::kTest, &files, false, &statistics);
  EXPECT_NE(with.status().message().find("new.csv:1: no column \"click\""), std::string::npos) << with.status().message();
  setup.read.labels = false;
  const auto without = ReadDataset(setup.read, Part::kTest, &files, false, &statistics);
  ASSERT_TRUE(without.ok()) << without.status().message();
  EXPECT_EQ(WholeBatch(*without).labels, (std::vector<float>{0}));
}

// Groups: user, which is a feature too, and visit, which is none.
Config GroupedConfig(const std::string& path) {
  Config config = SmallConfig(path);
  config.tasks[0].metrics = {{.type = "auc"}, {.type = "gauc", .by = "visit"}, {.type = "ndcg", .by = "user"}};
  return config;
}

TEST(DatasetTest, GroupsAreKeptOfPartsThatAreEvaluated) {
  const TempDir dir;
  const std::string text = "click,user,item,tags,age,visit\n1,u1,3,t1,25,7.0\n0,u2,3,,26,\n0,u1,4,,27,7\n1,u3,4,,28,NA\n";
  Config config = GroupedConfig(dir.Write("f.csv", text));
  config.data.missing = {"", "NA"};
  Prepared setup(config);
  EXPECT_EQ(setup.schema.groups, (std::vector<std::string>{"visit", "user"}));
  Statistics statistics;
  const auto train = ReadDataset(setup.read, Part::kTrain, nullptr, true, &statistics);
  ASSERT_TRUE(train.ok()) << train.status().message();
  EXPECT_TRUE(WholeBatch(*train).groups.empty()) << "training needs none";
  for (const Part part : {Part::kValid, Part::kTest}) {
    const auto dataset = ReadDataset(setup.read, part, &config.data.train, false, &statistics);
    ASSERT_TRUE(dataset.ok()) << dataset.status().message();
    const auto key = [](const std::string& value, const std::string& column) { return KeyOfText(value, TableSalt(column)); };
    const std::vector<std::uint64_t> groups = WholeBatch(*dataset).groups;
    EXPECT_EQ(groups, (std::vector<std::uint64_t>{key("7", "visit"), key("", "visit"), key("7", "visit"), key("", "visit"),
                                                  key("u1", "user"), key("u2", "user"), key("u1", "user"), key("u3", "user")}));
    EXPECT_GE((*dataset)->memory_bytes(), (*train)->memory_bytes() + groups.size() * sizeof(groups[0]));
  }
}

TEST(DatasetTest, PredictNeedsNoGroups) {
  const TempDir dir;
  Prepared setup(GroupedConfig(dir.Write("f.csv", "click,user,item,tags,age,visit\n1,u1,3,t1,25,7\n")));
  PartConfig files;
  files.files = {dir.Write("new.csv", "click,user,item,tags,age\n1,u1,3,t1,25\n")};
  Statistics statistics;
  ASSERT_TRUE(ReadDataset(setup.read, Part::kTrain, nullptr, true, &statistics).ok());
  const auto with = ReadDataset(setup.read, Part::kTest, &files, false, &statistics);
  EXPECT_NE(with.status().message().find("new.csv:1: no column \"visit\""), std::string::npos) << with.status().message();
  setup.read.labels = false;
  const auto without = ReadDataset(setup.read, Part::kTest, &files, false, &statistics);
  ASSERT_TRUE(without.ok()) << without.status().message();
  EXPECT_TRUE(WholeBatch(*without).groups.empty());
}

TEST(DatasetTest, StopEndsReading) {
  const TempDir dir;
  Prepared setup(SmallConfig(dir.Write("f.csv", SmallLog(10))));
  const std::atomic<bool> stop{true};
  setup.read.stop = &stop;
  Statistics statistics;
  EXPECT_EQ(ReadDataset(setup.read, Part::kTrain, nullptr, true, &statistics).status().code(), Code::kCancelled);
}

TEST(DatasetTest, FitsInMemoryCountsGzSixTimes) {
  const TempDir dir;
  DataConfig data;
  data.root = dir.path();
  dir.Write("a.csv", std::string(100, 'x'));
  dir.Write("b.csv.gz", std::string(10, 'x'));
  PartConfig part;
  part.files = {"a.csv", "b.csv.gz"};
  data.cache_bytes = 160;
  EXPECT_TRUE(*FitsInMemory(data, part));
  data.cache_bytes = 159;
  EXPECT_FALSE(*FitsInMemory(data, part));
  part.files = {"none.csv"};
  EXPECT_EQ(FitsInMemory(data, part).status().code(), Code::kInvalidInput);
}

TEST(DatasetTest, ReadTextGivesTheSamplesInOrder) {
  const TempDir dir;
  DataConfig data;
  PartConfig part;
  part.files = {dir.Write("f.csv", "a,b\n1,x\n2,\"y,z\"\n3,w\n")};
  part.where = "a >= 2";
  std::vector<std::string> seen;
  const auto visit = [&](std::span<const std::vector<std::string>> values) {
    for (std::size_t r = 0; r < values[0].size(); ++r) seen.push_back(values[0][r] + "/" + values[1][r]);
    return Ok();
  };
  ASSERT_TRUE(ReadText(data, part, {"b", "a"}, 0, visit).ok());
  EXPECT_EQ(seen, (std::vector<std::string>{"y,z/2", "w/3"}));
  seen.clear();
  ASSERT_TRUE(ReadText(data, part, {"b", "a"}, 1, visit).ok());
  EXPECT_EQ(seen.size(), 1U);
  const auto fails = [](std::span<const std::vector<std::string>>) { return Internal("enough"); };
  EXPECT_EQ(ReadText(data, part, {"b"}, 0, fails).message(), "enough");
}

}  // namespace
}  // namespace gatemill::data
