#include "worker/data/schema.h"

#include "common/keys.h"
#include "tests/worker/data/data_testing.h"

namespace gatemill::data {
namespace {

const std::vector<std::string> kColumns = {"click", "weight", "user", "item", "hot0", "hot1", "hot2", "age", "tags"};

Config Base() {
  Config config;
  config.path = "c.yaml";
  config.tasks = {Task("click", "bce")};
  return config;
}

std::string Mistakes(const Config& config) {
  const Result<Schema> schema = ResolveSchema(config, kColumns);
  EXPECT_FALSE(schema.ok());
  EXPECT_EQ(schema.status().code(), Code::kInvalidInput);
  return schema.status().message();
}

TEST(SchemaTest, LaysOutX) {
  Config config = Base();
  FeatureConfig dense = Dense({"age"}, {"none", "log1p"});
  FeatureConfig one_hot = Dense({"age"}, {});
  one_hot.name = "age_one_hot";
  one_hot.bucketize.boundaries = {1, 2, 3};
  FeatureConfig quantiles = Dense({"age"}, {});
  quantiles.name = "age_quantiles";
  quantiles.bucketize.quantiles = 5;
  config.features = {dense, Sparse({"user"}, 8), one_hot, Sparse({"hot*"}, 2), quantiles};
  const Result<Schema> schema = ResolveSchema(config, kColumns);
  ASSERT_TRUE(schema.ok()) << schema.status().message();
  ASSERT_EQ(schema->sparse.size(), 4U);
  EXPECT_EQ(schema->sparse[1].name, "hot0");
  EXPECT_EQ(schema->sparse[0].x_offset, 0);
  EXPECT_EQ(schema->sparse[1].x_offset, 8);
  EXPECT_EQ(schema->sparse[3].x_offset, 12);
  EXPECT_EQ(schema->sparse_dim, 14);
  ASSERT_EQ(schema->dense.size(), 3U);
  EXPECT_EQ(schema->dense[0].transform, (std::vector<std::string>{"log1p"}));
  EXPECT_EQ(schema->dense[0].x_offset, 14);
  EXPECT_EQ(schema->dense[1].x_offset, 15);
  EXPECT_EQ(schema->dense[1].width, 4);
  EXPECT_EQ(schema->dense[2].width, 5);
  EXPECT_EQ(schema->dense_dim, 10);
  EXPECT_EQ(schema->x_dim(), 24);
  EXPECT_EQ(schema->tables.size(), 4U);
  EXPECT_EQ(schema->sparse[0].salt, TableSalt("user"));
}

TEST(SchemaTest, GatesReadTheColumnsOfTheirFeatures) {
  Config config = Base();
  config.features = {Dense({"age"}, {}), Sparse({"user"}, 8), Sparse({"hot*"}, 2), Sparse({"item"}, 4)};
  config.model.gate_features = {"age", "hot?", "user"};
  const Result<Schema> schema = ResolveSchema(config, kColumns);
  ASSERT_TRUE(schema.ok()) << schema.status().message();
  std::vector<std::pair<int, int>> ranges;
  for (const XRange& range : schema->gate_columns) ranges.emplace_back(range.offset, range.width);
  EXPECT_EQ(ranges, (std::vector<std::pair<int, int>>{{0, 14}, {18, 1}})) << "user and hot0 to hot2, without item, age";
  config.model.gate_features = {"agee", "z*"};
  const std::string mistakes = Mistakes(config);
  EXPECT_NE(mistakes.find("c.yaml: model.gate_features: there is no feature \"agee\"; did you mean \"age\"?"), std::string::npos)
      << mistakes;
  EXPECT_NE(mistakes.find("model.gate_features: there is no feature \"z*\""), std::string::npos) << mistakes;
}

TEST(SchemaTest, TablesAreSharedAndTheirCompanionsFollow) {
  Config config = Base();
  TableConfig ids;
  ids.name = "ids";
  ids.embedding_dim = 6;
  ids.oov_buckets = 16;
  ids.oov_ratio = 0.5;
  ids.optimizer = SparseOptimizerConfig{.type = "ftrl"};
  ids.dtype = "bf16";
  ids.eviction.idle_steps = 100;
  config.tables = {ids};
  config.features = {Sparse({"user", "item"}, 0), Sparse({"tags"}, 3)};
  config.features[0].table = "ids";
  config.features[1].hash_buckets = 100;
  config.features[1].oov_buckets = 2;
  config.train.sparse_optimizer.type = "adam";
  const Result<Schema> schema = ResolveSchema(config, kColumns);
  ASSERT_TRUE(schema.ok()) << schema.status().message();
  ASSERT_EQ(schema->tables.size(), 2U);
  EXPECT_EQ(schema->sparse[1].table, 0U);
  EXPECT_EQ(schema->sparse[1].dim, 6);
  EXPECT_EQ(schema->tables[1].hash_buckets, 100U);
  ASSERT_EQ(schema->server_tables.size(), 4U);
  EXPECT_EQ(schema->server_tables[0].name, "ids");
  EXPECT_EQ(schema->server_tables[0].oov_rows, 16U);
  EXPECT_EQ(schema->server_tables[0].optimizer.type, "ftrl");
  EXPECT_EQ(schema->server_tables[0].dtype, ps::FloatType::kBfloat16);
  EXPECT_EQ(schema->server_tables[1].optimizer.type, "adam");
  EXPECT_EQ(schema->server_tables[1].dtype, ps::FloatType::kFloat32);
  EXPECT_EQ(schema->tables[0].oov_table, 2U);
  EXPECT_EQ(schema->tables[0].oov_ratio, 0.5);
  EXPECT_EQ(schema->server_tables[2].name, ps::OovTableName("ids"));
  EXPECT_EQ(schema->server_tables[2].dim, 6);
  EXPECT_EQ(schema->server_tables[2].oov_rows, 0U);
  EXPECT_EQ(schema->server_tables[2].dtype, ps::FloatType::kBfloat16);
  EXPECT_EQ(schema->tables[1].oov_table, 3U);
  EXPECT_EQ(schema->server_tables[0].eviction.idle_steps, 100);
  EXPECT_EQ(schema->server_tables[2].eviction, EvictionConfig()) << "shared rows stay";
}

TEST(SchemaTest, ATableThatAdmitsHasACompanionForItsCounts) {
  Config config = Base();
  TableConfig user;
  user.name = "user";
  user.oov_buckets = 2;
  user.admission = {.min_count = 3, .max_candidates = 50'000};
  config.tables = {user};
  config.features = {Sparse({"user", "item"}, 4)};
  const Result<Schema> schema = ResolveSchema(config, kColumns);
  ASSERT_TRUE(schema.ok()) << schema.status().message();
  EXPECT_TRUE(schema->tables[0].admits);
  EXPECT_FALSE(schema->tables[1].admits);
  EXPECT_EQ(schema->tables[0].oov_ratio, 0.0) << "no use is drawn: all of them go to shared rows";
  ASSERT_EQ(schema->server_tables.size(), 4U);
  EXPECT_EQ(schema->server_tables[0].admission.min_count, 3);
  EXPECT_EQ(schema->server_tables[2].name, ps::OovTableName("user"));
  EXPECT_EQ(schema->server_tables[2].admission, AdmissionConfig());
  EXPECT_TRUE(ps::HoldsSightings(schema->server_tables[3]));
  EXPECT_EQ(schema->server_tables[3].dim, 1);
  EXPECT_EQ(schema->server_tables[3].eviction.max_rows, 50'000);
}

// A table's entry that says something else leaves what the feature says of its own table.
TEST(SchemaTest, WhatATableDoesNotSayItsFeatureDoes) {
  Config config = Base();
  TableConfig user;
  user.name = "user";
  user.admission.min_count = 3;
  config.tables = {user};
  config.features = {Sparse({"user", "item"}, 4)};
  config.features[0].oov_buckets = 8;
  config.features[0].hash_buckets = 500;
  const Result<Schema> schema = ResolveSchema(config, kColumns);
  ASSERT_TRUE(schema.ok()) << schema.status().message();
  for (const Table& table : schema->tables) {
    EXPECT_EQ(table.oov_buckets, 8U) << table.name;
    EXPECT_EQ(table.hash_buckets, 500U) << table.name;
  }
  EXPECT_TRUE(schema->tables[0].admits);
}

TEST(SchemaTest, EveryMistakeAtOnce) {
  Config config = Base();
  config.tasks.push_back(Task("lik", "bce"));
  config.tasks[0].metrics = {{.type = "gauc", .by = "usre"}, {.type = "ndcg", .by = "item"}};
  config.data.sample_weight = "wight";
  config.features = {Sparse({"usr", "cold*"}, 4), Sparse({"click"}, 4), Sparse({"item"}, 0)};
  config.features[0].line = 7;
  config.features[1].line = 8;
  config.features[2].line = 9;
  const std::string mistakes = Mistakes(config);
  EXPECT_NE(mistakes.find("c.yaml: tasks.lik.label_name: the data has no column \"lik\""), std::string::npos);
  EXPECT_NE(mistakes.find("c.yaml: tasks.click.metrics, gauc.by: the data has no column \"usre\"; did you mean \"user\"?"),
            std::string::npos);
  EXPECT_NE(mistakes.find("c.yaml: data.sample_weight: the data has no column \"wight\"; did you mean \"weight\"?"),
            std::string::npos);
  EXPECT_NE(mistakes.find("c.yaml:7: features: the data has no column \"usr\"; did you mean \"user\"?"),
            std::string::npos);
  EXPECT_NE(mistakes.find("c.yaml:7: no column of the data matches \"cold*\""), std::string::npos);
  EXPECT_NE(mistakes.find("c.yaml:8: column \"click\" is the label of task \"click\" and cannot be a feature"),
            std::string::npos);
  EXPECT_NE(mistakes.find("c.yaml:9: table \"item\" has no embedding_dim"), std::string::npos);
}

TEST(SchemaTest, ColumnsThatWeighATaskAreNoFeatures) {
  Config config = Base();
  config.features = {Sparse({"user", "item"}, 4)};
  config.tasks[0].sample_weight = "wight";
  config.tasks[0].task_space_indicator_label = "item";
  const std::string mistakes = Mistakes(config);
  EXPECT_NE(mistakes.find("c.yaml: tasks.click.sample_weight: the data has no column \"wight\"; did you mean \"weight\"?"),
            std::string::npos) << mistakes;
  EXPECT_NE(mistakes.find("column \"item\" is the task_space_indicator_label of task \"click\" and cannot be a feature too"),
            std::string::npos) << mistakes;
}

TEST(SchemaTest, OneTableWithTwoDims) {
  Config config = Base();
  config.features = {Sparse({"user"}, 4), Sparse({"item"}, 8)};
  config.features[0].table = config.features[1].table = "ids";
  config.features[1].line = 12;
  EXPECT_EQ(Mistakes(config), "c.yaml:12: table \"ids\" has embedding_dim 4, this feature says 8; features that share a "
                              "table share its dim");
}

TEST(SchemaTest, SmallMistakes) {
  const auto with = [](FeatureConfig feature) {
    Config config = Base();
    config.features = {std::move(feature)};
    return Mistakes(config);
  };
  FeatureConfig feature = Sparse({"user", "item"}, 4);
  feature.name = "x";
  EXPECT_NE(with(feature).find("stands for 2 columns"), std::string::npos);
  EXPECT_NE(with(Sparse({"user", "user"}, 4)).find("two features are named \"user\""), std::string::npos);
  EXPECT_NE(with(Sparse({"user"}, 1'000'000)).find("not in 1 to 4096"), std::string::npos);
  EXPECT_NE(with(Dense({"age"}, {"minmax", "log1p"})).find("log1p must come first"), std::string::npos);
  EXPECT_NE(with(Dense({"age"}, {"minmax", "minmax"})).find("stands twice"), std::string::npos);
  feature = Dense({"age"}, {"minmax"});
  feature.bucketize.quantiles = 4;
  EXPECT_NE(with(feature).find("remove transform"), std::string::npos);
  feature = Sparse({"age"}, 4);
  feature.bucketize.boundaries = {2, 1};
  EXPECT_NE(with(feature).find("must ascend"), std::string::npos);
  feature.bucketize.boundaries = {1, 2};
  feature.separator = "|";
  EXPECT_NE(with(feature).find("exclude each other"), std::string::npos);
  for (const char* name : {"a#seen", "a#oov"}) {
    feature = Sparse({"user"}, 4);
    feature.name = name;
    EXPECT_NE(with(feature).find("companion tables"), std::string::npos) << name;
  }
  Config config = Base();
  EXPECT_NE(Mistakes(config).find("there are no features"), std::string::npos);
  config.features = {Sparse({"user"}, 4)};
  config.tables.resize(1);
  config.tables[0].name = "video";
  EXPECT_NE(Mistakes(config).find("table \"video\" is used by no feature"), std::string::npos);
}

TEST(SchemaTest, ColumnsThatChooseRowsAreChecked) {
  Config config = SmallConfig("unread.csv");
  config.data.train.where = "dat < 3";
  config.data.split = {.ratio = 0.5, .by = "usr"};
  const auto schema = ResolveSchema(config, {"user", "item", "tags", "price", "click", "buy"});
  ASSERT_EQ(schema.status().code(), Code::kInvalidInput);
  EXPECT_NE(schema.status().message().find("data.train.where: "), std::string::npos) << schema.status().message();
  EXPECT_NE(schema.status().message().find("data.split.by: the data has no column \"usr\""), std::string::npos);
}

TEST(SchemaTest, ReadColumnNames) {
  const TempDir dir;
  DataConfig data;
  data.root = dir.path();
  dir.Write("b.csv", "x,y\n1,2\n");
  dir.Write("a.csv", "p,q\n1,2\n");
  data.train.files = {"*.csv"};
  EXPECT_EQ(*ReadColumnNames(data), (std::vector<std::string>{"p", "q"}));
  data.header = false;
  data.column_names = {"one", "two"};
  EXPECT_EQ(*ReadColumnNames(data), data.column_names);
}

}  // namespace
}  // namespace gatemill::data
