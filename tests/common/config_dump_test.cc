#include "common/config_dump.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <random>

#include "common/random.h"
#include "tests/common/config_samples.h"

namespace gatemill {
namespace {

// What a dump cannot keep: where the text stood.
Config WithoutPlaces(Config config) {
  config.path.clear();
  for (FeatureConfig& feature : config.features) feature.line = 0;
  return config;
}

void ExpectReadsBack(const Config& config) {
  const std::string yaml = ResolvedYaml(config);
  const Result<Config> back = ParseConfig(yaml, "resolved.yaml", {});
  ASSERT_TRUE(back.ok()) << back.status().message() << "\n" << yaml;
  EXPECT_TRUE(WithoutPlaces(*back) == WithoutPlaces(config)) << yaml << "\n---- and read back\n" << ResolvedYaml(*back);
}

class RandomConfig {
 public:
  explicit RandomConfig(std::uint64_t seed) : random_(seed, 0) {}

  Config Make() {
    Config c;
    c.data.root = "/data " + std::to_string(Below(100));
    c.data.train = {{"a.csv", Text()}, Flip() ? Text() : ""};
    if (Flip()) c.data.valid = {{Text()}, ""};
    if (c.data.valid.empty()) c.data.split = {Real(), Pick({"row", "hash", "user: id"})};
    c.data.format = Pick({"auto", "csv", "tsv"});
    c.data.header = Flip();
    if (!c.data.header) c.data.column_names = {Text() + "x", Text() + "y"};
    c.data.missing = {Text(), "?", ""};
    c.data.limit = Below(1000);
    c.data.cache_bytes = static_cast<std::int64_t>(Below(1ULL << 40));
    c.data.shuffle = Flip();
    for (int i = 0; i < 3; ++i) AddFeature(&c, i);
    c.model = Model();
    for (int i = 0; i < 3; ++i) AddTask(&c, i);
    c.train = Train(!c.data.valid.empty() || c.data.split.ratio < 1);
    c.ps.transport = Pick({"auto", "inproc", "ipc", "tcp"});
    c.ps.wire = Pick({"fp32", "fp16", "bf16"});
    c.ps.deadline_ms = 1 + static_cast<int>(Below(1000));
    c.ps.dir = Flip() ? "" : Text();
    return c;
  }

 private:
  std::uint64_t Below(std::uint64_t n) { return random_.Below(n); }
  bool Flip() { return Below(2) == 1; }
  double Real() { return (1 + static_cast<double>(Below(1'000'000))) / 1'000'003.0; }  // in (0, 1)
  std::string Pick(const std::vector<std::string>& choices) { return choices[Below(choices.size())]; }
  std::string Text() {
    static const std::string kLetters = "aZ0 _-:#\"'\\\t\n,[]{}|&~!%@`.\x02\xc3";
    std::string text;
    for (std::uint64_t i = 0, n = 1 + Below(6); i < n; ++i) text += kLetters[Below(kLetters.size() - 1)];
    return text + "\xc3\xa9";
  }
  MlpConfig Mlp() {
    MlpConfig mlp;
    mlp.hidden_units = {1 + static_cast<int>(Below(500)), 1 + static_cast<int>(Below(500))};
    mlp.activation = Pick({"relu", "prelu", "dice", "linear"});
    if (Flip()) mlp.dropout_ratio = {Real(), Real()};
    mlp.use_bn = Flip();
    mlp.use_ln = !mlp.use_bn && Flip();
    return mlp;
  }
  ModelConfig Model() {
    ModelConfig model;
    model.type = Pick({"single", "shared_bottom", "omoe", "mmoe", "ple", "aitm"});
    if (Flip() && model.type != "single") model.bottom_mlp = Mlp();
    model.num_task_expert = static_cast<int>(Below(4));
    model.num_level = 1 + static_cast<int>(Below(3));
    if (Flip()) model.gate_mlp = Mlp();
    model.num_expert = 1 + static_cast<int>(Below(16));
    model.expert_mlp = Mlp();
    model.tower_mlp = Mlp();
    model.gate_bias = Flip();
    model.gate_bn = Flip();
    if (Flip()) model.gate_features = {Text(), "a*"};
    if (Flip()) model.gate_dropout_ratio = Real();
    model.top_k = static_cast<int>(Below(2));
    if (Flip()) model.transfer_mlp = model.expert_mlp;
    model.initializer.type = Pick({"linear", "xavier_normal", "normal"});
    if (model.initializer.type == "normal") model.initializer.scale = Real();
    return model;
  }
  void AddTask(Config* c, int number) {
    TaskConfig task;
    task.name = "task" + std::to_string(number);
    task.label_name = Text() + std::to_string(number);
    LossConfig& loss = task.loss[0];
    loss.type = Pick({"bce", "focal", "mse", "huber", "watch_time"});
    if (loss.type == "focal") loss.gamma = Real();
    if (loss.type == "huber") loss.delta = Real();
    if (loss.type == "bce") loss.label_smoothing = Real();
    if (loss.type == "mse") task.label_transform = Pick({"none", "log1p"});
    if (loss.type == "mse") task.loss.push_back({.type = "mae", .weight = Real()});
    if (c->data.header && Flip()) task.sample_weight = Text();
    if (c->data.header && Flip()) {
      task.task_space_indicator_label = Text();
      task.out_task_space_weight = Real();
      task.task_space_reduction = Pick({"space", "batch"});
    }
    task.weight = Real();
    if (Flip()) task.mlp = Mlp();
    AddMetrics(&task);
    c->tasks.push_back(task);
  }
  void AddMetrics(TaskConfig* task) {
    task->metrics = {{.type = task->is_binary() ? "auc" : "rmse"}};
    if (task->is_binary() && Flip()) task->metrics.push_back({.type = "gauc", .by = Text()});
    if (Flip()) task->metrics.push_back({.type = "ndcg", .by = Text(), .k = 1 + static_cast<int>(Below(100))});
    if (Flip()) task->metrics.push_back({.type = "calibration_error", .buckets = 1 + static_cast<int>(Below(100))});
  }
  SparseOptimizerConfig SparseOptimizer() {
    SparseOptimizerConfig optimizer;
    optimizer.type = Pick({"sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"});
    optimizer.lr = Real();
    optimizer.eps = optimizer.type == "adam" ? 1e-8 : 1e-10;
    optimizer.initial_accumulator = optimizer.type == "ftrl" ? 0.1 : 0.0;
    if (optimizer.type == "adam") optimizer.beta1 = Real();
    if (optimizer.type == "adagrad") optimizer.eps = Real();
    if (optimizer.type == "ftrl") optimizer.l1 = Real();
    return optimizer;
  }
  void AddFeature(Config* c, int number) {
    FeatureConfig feature;
    feature.columns = {"column " + std::to_string(number)};
    if (Flip()) feature.name = Text() + std::to_string(number);
    if (Flip()) {
      feature.type = FeatureType::kDense;
      if (Flip()) feature.transform = {"log1p", Pick({"minmax", "zscore"})};
      if (feature.transform.empty()) feature.bucketize.boundaries = {-Real(), 0.0, Real()};
    } else if (Flip()) {
      feature.table = "table " + std::to_string(number);
      TableConfig table;
      table.name = feature.table;
      table.embedding_dim = 1 + static_cast<int>(Below(64));
      table.initializer.type = Pick({"uniform", "normal", "zeros"});
      if (table.initializer.type != "zeros") table.initializer.scale = Real();
      if (Flip()) table.optimizer = SparseOptimizer();
      table.oov_buckets = static_cast<std::int64_t>(Below(2));
      if (Flip()) {
        table.admission = {.min_count = 2 + static_cast<std::int64_t>(Below(9)),
                           .max_candidates = kMinTableRows + static_cast<std::int64_t>(Below(1000))};
        table.eviction.idle_steps = kMinIdleSteps + static_cast<std::int64_t>(Below(1000));
        table.eviction.idle_days = static_cast<std::int64_t>(Below(10));
        table.eviction.max_rows = kMinTableRows + static_cast<std::int64_t>(Below(1000));
        table.eviction.policy = Pick({"lru", "lfu"});
      }
      if (table.oov_buckets > 0 && table.admission.min_count == 1) table.oov_ratio = Real();
      table.dtype = Pick({"fp32", "fp16", "bf16"});
      c->tables.push_back(table);
    } else {
      feature.embedding_dim = 1 + static_cast<int>(Below(64));
      feature.hash_buckets = static_cast<std::int64_t>(Below(1000));
      feature.oov_buckets = static_cast<std::int64_t>(Below(1000));
      if (Flip()) {
        feature.separator = Text();
        feature.pooling = static_cast<Pooling>(Below(3));
        feature.max_length = static_cast<int>(Below(10));
      } else {
        feature.bucketize.quantiles = 2 + static_cast<int>(Below(64));
      }
    }
    c->features.push_back(feature);
  }
  TrainConfig Train(bool has_valid) {
    TrainConfig train;
    train.seed = random_();
    train.num_epochs = 1 + static_cast<int>(Below(50));
    train.global_batch_size = 1 + static_cast<std::int64_t>(Below(1 << 20));
    train.consistency = static_cast<Consistency>(Below(3));
    if (train.consistency == Consistency::kBounded) train.staleness = 1 + static_cast<int>(Below(9));
    train.dense_optimizer.type = Pick({"adam", "adamw", "adagrad", "sgd"});
    train.dense_optimizer.lr = Real();
    train.dense_optimizer.weight_decay = Real();
    if (train.dense_optimizer.type == "adagrad") train.dense_optimizer.eps = 1e-10;
    if (train.dense_optimizer.type == "sgd") train.dense_optimizer.momentum = Real();
    train.sparse_optimizer = SparseOptimizer();
    if (has_valid && Flip()) train.early_stopping = EarlyStoppingConfig{"loss", 1 + static_cast<int>(Below(9)), Real()};
    train.checkpoint.every_steps = static_cast<std::int64_t>(Below(1000));
    train.checkpoint.every_minutes = Real();
    return train;
  }

  RandomStream random_;
};

TEST(ConfigDumpTest, RealConfigurationsReadBackEqual) {
  ASSERT_EQ(unsetenv("GATEMILL_TEST_DATA"), 0);
  for (const std::string& yaml : {kCensusYaml, kVideoYaml, SmallYaml()}) {
    const Result<Config> config = ParseConfig(yaml, "c.yaml", {});
    ASSERT_TRUE(config.ok()) << config.status().message();
    Config resolved = *config;
    resolved.data.root = std::filesystem::absolute(DataPath(config->data, ".")).lexically_normal().parent_path();
    EXPECT_EQ(ResolvedYaml(resolved), ResolvedYaml(*config));
    ExpectReadsBack(resolved);
  }
}

TEST(ConfigDumpTest, RandomConfigurationsReadBackEqual) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    ExpectReadsBack(RandomConfig(seed).Make());
    if (HasFailure()) return;
  }
}

TEST(ConfigDumpTest, EveryDefaultIsWrittenAndPathsAreAbsolute) {
  ASSERT_EQ(setenv("GATEMILL_TEST_DATA", "sub/../data", 1), 0);
  const Result<Config> config = ParseConfig(
      "data: {root: \"${GATEMILL_TEST_DATA}/x\", train: \"${GATEMILL_TEST_DATA}.csv\"}\nfeatures: [{columns: a, type: "
      "dense}]\ntasks: {t: {label_name: y}}\n",
      "c.yaml", {});
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->data.root, "${GATEMILL_TEST_DATA}/x");
  EXPECT_EQ(DataPath(config->data, config->data.train.files[0]), "sub/../data/x/sub/../data.csv");
  const std::string yaml = ResolvedYaml(*config);
  EXPECT_EQ(yaml.find("${"), std::string::npos);
  const std::string root = (std::filesystem::current_path() / "data/x").string();
  EXPECT_EQ(ParseConfig(yaml, "r.yaml", {})->data.root, root);
  for (const std::string line : {"consistency: sync\n", "num_expert: 8\n", "eps: 1e-08", "early_stopping: null\n",
                                 "metrics: [auc, logloss]", "cache_bytes: 4294967296\n", "tables: {}\n"}) {
    EXPECT_NE(yaml.find(line), std::string::npos) << line << "\n" << yaml;
  }
  EXPECT_EQ(yaml.find("momentum"), std::string::npos) << "momentum means nothing to adam";
  ASSERT_EQ(unsetenv("GATEMILL_TEST_DATA"), 0);
}

TEST(ConfigDumpTest, AMetricWithoutKeysIsItsName) {
  const Result<Config> config = ParseConfig(
      SmallYaml(), "c.yaml", {"tasks.click.metrics=[auc, {gauc: user_id}, {recall: user_id}, calibration_error]"});
  ASSERT_TRUE(config.ok()) << config.status().message();
  const std::string yaml = ResolvedYaml(*config);
  EXPECT_NE(yaml.find("metrics: [auc, {gauc: {by: user_id}}, {recall: {by: user_id, k: 10}}, {calibration_error: {buckets: 10}}]"),
            std::string::npos)
      << yaml;
}

TEST(ConfigDumpTest, DataPathJoinsTheRoot) {
  DataConfig data;
  EXPECT_EQ(DataPath(data, "a.csv"), "a.csv");
  data.root = "/d";
  EXPECT_EQ(DataPath(data, "a*.csv"), "/d/a*.csv");
  EXPECT_EQ(DataPath(data, "/e/a.csv"), "/e/a.csv");
  data.root = "/d/";
  EXPECT_EQ(DataPath(data, "a.csv"), "/d/a.csv");
}

}  // namespace
}  // namespace gatemill
