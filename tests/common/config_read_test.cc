#include <gtest/gtest.h>

#include <filesystem>

#include "common/config.h"
#include "common/file.h"
#include "tests/common/config_samples.h"

namespace gatemill {
namespace {

Config Parse(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  Result<Config> config = ParseConfig(yaml, "c.yaml", overrides);
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? *config : Config{};
}

void ExpectSays(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << "expected: " << part << "\nfound: " << message;
}

TEST(ConfigReadTest, CensusConfiguration) {
  const Config config = Parse(kCensusYaml);
  EXPECT_EQ(config.data.root, "${GATEMILL_TEST_DATA:-../shared/data}/census-income");
  EXPECT_EQ(config.data.train.files, std::vector<std::string>{"train.csv.gz"});
  EXPECT_EQ(config.data.missing, (std::vector<std::string>{"?", ""}));
  ASSERT_EQ(config.features.size(), 2U);
  EXPECT_EQ(config.features[0].type, FeatureType::kDense);
  EXPECT_EQ(config.features[0].transform, (std::vector<std::string>{"log1p", "minmax"}));
  EXPECT_EQ(config.features[0].line, 9);
  EXPECT_EQ(config.features[1].columns.size(), 3U);
  EXPECT_EQ(config.features[1].embedding_dim, 8);
  EXPECT_EQ(config.model.expert_mlp.dropout_ratio, std::vector<double>{0.1});
  EXPECT_FALSE(config.model.gate_mlp.has_value());
  ASSERT_EQ(config.tasks.size(), 2U);
  EXPECT_EQ(config.tasks[0].name, "income");
  EXPECT_EQ(config.tasks[1].name, "never_married");
  EXPECT_EQ(config.tasks[0].mlp->hidden_units, std::vector<int>{16});
  EXPECT_EQ(config.train.num_epochs, 20);
  EXPECT_EQ(config.train.early_stopping->patience, 3);
  EXPECT_EQ(config.train.consistency, Consistency::kSync);
}

TEST(ConfigReadTest, VideoConfiguration) {
  const Config config = Parse(kVideoYaml);
  EXPECT_EQ(config.data.train.where, "date < 20220429");
  EXPECT_EQ(config.data.valid.files, std::vector<std::string>{"train.csv.gz"});
  ASSERT_EQ(config.tables.size(), 3U);
  EXPECT_EQ(config.tables[0].name, "user");
  EXPECT_EQ(config.tables[0].oov_buckets, 64);
  EXPECT_EQ(config.tables[1].initializer.type, "normal");
  EXPECT_EQ(config.tables[1].optimizer->l1, 0.1);
  EXPECT_EQ(config.tables[1].optimizer->initial_accumulator, 0.1);
  EXPECT_EQ(config.features[4].separator, "|");
  EXPECT_EQ(config.features[4].pooling, Pooling::kMean);
  EXPECT_EQ(config.features[7].bucketize.quantiles, 32);
  EXPECT_EQ(config.features[7].name, "duration_bucket");
  EXPECT_EQ(config.model.expert_mlp.dropout_ratio, (std::vector<double>{0.1, 0.1}));
  EXPECT_EQ(config.tasks[1].metrics, (std::vector<MetricConfig>{{.type = "rmse"}, {.type = "mae"}}));
  EXPECT_EQ(config.train.consistency, Consistency::kBounded);
  EXPECT_EQ(config.train.staleness, 2);
  EXPECT_EQ(config.train.dense_optimizer.weight_decay, 1e-4);
}

TEST(ConfigReadTest, ShorthandForms) {
  const Config config = Parse(R"(
data: {train: [a.csv, "b*.csv"], split: 0.8, cache_bytes: 2MiB, missing: NA}
features: [user_id, {columns: 101, embedding_dim: 4, bucketize: [1, 2.5]}, {columns: x, type: dense, transform: none}]
tables: {user_id: {embedding_dim: 4}}
model: {expert_mlp: 32, tower_mlp: [8, 4], type: omoe}
tasks: {t: label}
train: {consistency: async, dense_optimizer: adagrad, sparse_optimizer: adam}
)");
  EXPECT_EQ(config.data.train.files, (std::vector<std::string>{"a.csv", "b*.csv"}));
  EXPECT_EQ(config.data.split.ratio, 0.8);
  EXPECT_EQ(config.data.split.by, "row");
  EXPECT_EQ(config.data.cache_bytes, 2 << 20);
  EXPECT_EQ(config.data.missing, std::vector<std::string>{"NA"});
  EXPECT_EQ(config.features[0].columns, std::vector<std::string>{"user_id"});
  EXPECT_EQ(config.features[1].columns, std::vector<std::string>{"101"});
  EXPECT_EQ(config.features[1].bucketize.boundaries, (std::vector<double>{1, 2.5}));
  EXPECT_TRUE(config.features[2].transform.empty());
  EXPECT_EQ(config.model.expert_mlp.hidden_units, std::vector<int>{32});
  EXPECT_EQ(config.model.tower_mlp.hidden_units, (std::vector<int>{8, 4}));
  EXPECT_EQ(config.tasks[0].label_name, "label");
  EXPECT_EQ(config.train.consistency, Consistency::kAsync);
  EXPECT_EQ(config.train.dense_optimizer.eps, 1e-10);
  EXPECT_EQ(config.train.sparse_optimizer.eps, 1e-8);
}

// A data file given as the configuration.
TEST(ConfigReadTest, AWrongFileIsNotShownWhole) {
  const auto config = ParseConfig("user,price " + std::string(100000, 'x'), "train.csv", {});
  ASSERT_EQ(config.status().code(), Code::kInvalidInput);
  EXPECT_EQ(config.status().message().find("train.csv:1:1: must be a map"), 0U) << config.status().message();
  EXPECT_LT(config.status().message().size(), 300U);
}

TEST(ConfigReadTest, BytesHaveUnits) {
  EXPECT_EQ(ParseBytes("4096"), 4096);
  EXPECT_EQ(ParseBytes("0"), 0);
  EXPECT_EQ(ParseBytes("3KiB"), 3 << 10);
  EXPECT_EQ(ParseBytes("512MiB"), 512 << 20);
  EXPECT_EQ(ParseBytes("2TiB"), 2LL << 40);
  for (const char* bad : {"", "MiB", "12MB", "1.5GiB", "-1", "-1MiB", "9999999TiB", "12 MiB"}) {
    EXPECT_FALSE(ParseBytes(bad).has_value()) << bad;
  }
}

TEST(ConfigReadTest, NullIsTheDefault) {
  const Config config = Parse(SmallYaml("model: {num_expert: null, gate_mlp: ~}\ntrain:\n"), {"data.valid="});
  EXPECT_EQ(config.model.num_expert, 8);
  EXPECT_FALSE(config.model.gate_mlp.has_value());
  EXPECT_EQ(config.train.num_epochs, 1);
  EXPECT_TRUE(config.data.valid.empty());
}

TEST(ConfigReadTest, EpsAndAccumulatorFollowTheOptimizer) {
  const auto sparse = [](const std::string& type) {
    return Parse(SmallYaml("train: {sparse_optimizer: " + type + "}\n")).train.sparse_optimizer;
  };
  EXPECT_EQ(sparse("adagrad").eps, 1e-10);
  EXPECT_EQ(sparse("adam").eps, 1e-8);
  EXPECT_EQ(sparse("ftrl").initial_accumulator, 0.1);
  EXPECT_EQ(sparse("adagrad").initial_accumulator, 0.0);
  EXPECT_EQ(sparse("{eps: 0.5, type: adam}").eps, 0.5);
}

TEST(ConfigReadTest, OverridesReachEverything) {
  const Config config = Parse(
      SmallYaml("model: {gate_mlp: [8]}\n"),
      {"train.seed=18446744073709551615", "tasks.like.weight=2.5", "features.0.embedding_dim=4", "model.gate_mlp=null",
       "data.train.where=date < 5", "tables.user_id.oov_buckets=7", "model.tower_mlp.hidden_units=[4, 2]",
       "ps.threads=2", "features.0.columns.1=video_id", "train.early_stopping.patience=9", "train.seed=3"});
  EXPECT_EQ(config.train.seed, 3U);
  EXPECT_EQ(config.tasks[1].weight, 2.5);
  EXPECT_EQ(config.features[0].embedding_dim, 4);
  EXPECT_EQ(config.features[0].columns, (std::vector<std::string>{"user_id", "video_id"}));
  EXPECT_FALSE(config.model.gate_mlp.has_value());
  EXPECT_EQ(config.data.train.files, std::vector<std::string>{"train.csv"});
  EXPECT_EQ(config.data.train.where, "date < 5");
  EXPECT_EQ(config.tables[0].oov_buckets, 7);
  EXPECT_EQ(config.model.tower_mlp.hidden_units, (std::vector<int>{4, 2}));
  EXPECT_EQ(config.train.early_stopping->patience, 9);
  EXPECT_EQ(Parse(SmallYaml(), {"train.seed=18446744073709551615"}).train.seed, 18446744073709551615ULL);
}

TEST(ConfigReadTest, OverridesMayBeTextThatYamlReadsOtherwise) {
  for (const std::string text : {",", "|", "#", ">", "%", "\x1f", "&"}) {
    EXPECT_EQ(Parse(SmallYaml(), {"features.0.separator=" + text}).features[0].separator, text);
  }
  EXPECT_EQ(Parse(SmallYaml(), {"data.train=*.csv"}).data.train.files, std::vector<std::string>{"*.csv"});
  EXPECT_EQ(Parse(SmallYaml(), {"data.train=[a, '*.csv']"}).data.train.files, (std::vector<std::string>{"a", "*.csv"}));
}

TEST(ConfigReadTest, OverrideMistakesNameTheirText) {
  const auto says = [](const std::string& text, const std::string& part) {
    ExpectSays(Mistake(SmallYaml(), {text}), "--set " + text + ": " + part);
  };
  says("train.seed", "is not KEY=VALUE");
  says(".seed=1", "is not KEY=VALUE");
  says("train.seed=[1", "value:1:");
  says("train.sead=1", "train.sead: unknown key; did you mean seed?");
  says("tasks.clik.weight=2", "there is no task clik; did you mean click?");
  says("features.7.name=x", "features is a list; name an entry by its number, 0 to 1, not 7");
  says("features.user_id.name=x", "features is a list; name an entry by its number");
  says("train.seed.x=1", "train.seed: must be a whole number, found a map");
  says("model.num_expert=-1", "model.num_expert: must be 0 to 1024, found -1");
}

TEST(ConfigReadTest, ForeignAndMistypedNamesAreAnsweredWithOurs) {
  const auto says = [](const std::string& yaml, const std::string& part) {
    ExpectSays(Mistake(SmallYaml(yaml)), part);
  };
  says("model: {n_expert: 4}\n", "c.yaml:11:9: model.n_expert: unknown key; write num_expert");
  says("model: {num_experts: 4}\n", "write num_expert");
  says("model: {expert_dnn_hidden_units: [4]}\n", "write expert_mlp.hidden_units");
  says("model: {gate_dnn_hidden_units: [4]}\n", "write gate_mlp.hidden_units");
  says("model: {tower_dnn_hidden_units: [4]}\n", "write tower_mlp.hidden_units");
  says("model: {dnn_hidden_units: [4]}\n", "write bottom_mlp.hidden_units");
  says("model: {expert_mlp: {dropout: 0.1}}\n", "write dropout_ratio");
  says("train: {batch_size: 4}\n", "write global_batch_size");
  says("train: {epochs: 4}\n", "write num_epochs");
  says("train: {lr_rate: 4}\n", "it belongs to train.dense_optimizer.lr or train.sparse_optimizer.lr");
  says("learning_rate: 4\n", "train.dense_optimizer.lr");
  says("train: {dense_optimizer: {learning_rate: 1}}\n", "write lr");
  says("train: {dense_optimizer: {l2_reg_dnn: 1}}\n", "write weight_decay");
  says("train: {l2_reg_embedding: 1}\n", "sparse_optimizer.l2");
  says("slots: []\n", "write features");
  says("tables: {user_id: {emb_dim: 4}}\n", "write embedding_dim");
  says("tables: {user_id: {data_type: fp16}}\n", "write dtype");
  ExpectSays(Mistake(SmallYaml(), {"features.0.dtype=bf16"}), "unknown key; write tables.NAME.dtype");
  says("tran: {}\n", "did you mean train?");
  says("model: {gate_dropout: 0.1}\n", "write gate_dropout_ratio");
  says("model: {specific_expert_num: 1}\n", "write num_task_expert");
  says("train: {task_weighting: {}}\n", "unknown key");
  says("score: {click: 1}\n", "c.yaml:11:1: score: unknown key");
}

TEST(ConfigReadTest, WrongTypesAndImpossibleSizes) {
  const auto says = [](const std::string& yaml, const std::string& part) {
    ExpectSays(Mistake(SmallYaml(yaml)), part);
  };
  says("model: {num_expert: many}\n", "c.yaml:11:21: model.num_expert: must be a whole number, found many");
  says("model: {num_expert: 2.5}\n", "must be a whole number, found 2.5");
  says("model: {num_expert: \"2\"}\n", "must be a whole number, found the text \"2\"");
  says("model: {num_expert: 1000000000}\n", "must be 0 to 1024, found 1000000000");
  says("model: {num_expert: 99999999999999999999999}\n", "must be 0 to 1024, found 99999999999999999999999");
  says("model: {num_expert: [1]}\n", "found a list");
  says("model: {expert_mlp: {dropout_ratio: 1.0}}\n", "must be at least 0, less than 1, found 1.0");
  says("model: {expert_mlp: {hidden_units: [8, 0]}}\n", "model.expert_mlp.hidden_units.1: must be 1 to 65536, found 0");
  says("model: {expert_mlp: {use_bn: yes}}\n", "must be true or false, found yes");
  says("model: {type: mmo}\n", "must be one of single, shared_bottom, omoe, mmoe, ple, esmm, aitm, found mmo; did you mean mmoe?");
  says("tables: {user_id: {dtype: fp8}}\n", "must be one of fp32, fp16, bf16, found fp8");
  says("model: [1]\n", "model: must be a map of keys, found a list");
  says("train: {global_batch_size: 0}\n", "must be 1 to 16777216, found 0");
  says("train: {dense_optimizer: {lr: -0.1}}\n", "must be greater than 0, at most 1000000, found -0.1");
  says("train: {dense_optimizer: {lr: .nan}}\n", "found .nan");
  says("train: {dense_optimizer: {lr: nan}}\n", "found nan");
  says("train: {dense_optimizer: {lr: inf}}\n", "found inf");
  says("train: {seed: -1}\n", "must be 0 to 18446744073709551615, found -1");
  says("train: {num_epochs: 0}\n", "must be 1 to 1000000, found 0");
  says("train: {consistency: fast}\n", "must be sync, async or {bounded: K}, found fast");
  says("train: {consistency: {bounded: 0}}\n", "train.consistency.bounded: must be 1 to 1000, found 0");
  ExpectSays(Mistake(SmallYaml(), {"data.cache_bytes=4GB"}), "must be a number of bytes such as 512MiB (KiB, MiB, GiB or TiB, whole), found 4GB");
  ExpectSays(Mistake(SmallYaml(), {"data.where=[a]"}), "unknown key; it belongs to data.train.where");
  ExpectSays(Mistake(SmallYaml(), {"data.sample_weight={a: b}"}), "must be text, found a map");
  ExpectSays(Mistake(SmallYaml(), {"tasks=[a, b]"}), "tasks: must be a map of NAME: {...}, found a list");
  ExpectSays(Mistake(SmallYaml(), {"features={a: {}}"}), "features: must be a list of entries");
  ExpectSays(Mistake(SmallYaml(), {"features.0.type=spares"}),
             "must be one of sparse, dense, found spares; did you mean");
}

// The metrics of task click when they are written as `yaml`.
std::vector<MetricConfig> MetricsOf(const std::string& yaml) {
  const Result<Config> config = ParseConfig(SmallYaml(), "c.yaml", {"tasks.click.metrics=" + yaml});
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? config->tasks[0].metrics : std::vector<MetricConfig>();
}

TEST(ConfigReadTest, MetricsInEveryForm) {
  const MetricConfig auc{.type = "auc"};
  const MetricConfig gauc{.type = "gauc", .by = "user_id"};
  EXPECT_EQ(MetricsOf("auc"), std::vector<MetricConfig>{auc});
  EXPECT_EQ(MetricsOf("{gauc: user_id}"), std::vector<MetricConfig>{gauc});
  EXPECT_EQ(MetricsOf("[auc, {gauc: user_id}]"), (std::vector<MetricConfig>{auc, gauc}));
  EXPECT_EQ(MetricsOf("[{gauc: {by: user_id}}, {auc: null}]"), (std::vector<MetricConfig>{gauc, auc}));
  EXPECT_EQ(MetricsOf("[{ndcg: user_id}, {ndcg: {by: user_id, k: 3}}]"),
            (std::vector<MetricConfig>{{.type = "ndcg", .by = "user_id"}, {.type = "ndcg", .by = "user_id", .k = 3}}));
  EXPECT_EQ(MetricsOf("[calibration_error, {calibration_error: {buckets: 20}}, {calibration_error: 30}]"),
            (std::vector<MetricConfig>{{.type = "calibration_error"},
                                       {.type = "calibration_error", .buckets = 20},
                                       {.type = "calibration_error", .buckets = 30}}));
  const Result<Config> overridden = ParseConfig(
      SmallYaml(), "c.yaml", {"tasks.click.metrics=[auc, {ndcg: user_id}]", "tasks.click.metrics.1.ndcg.k=5"});
  ASSERT_TRUE(overridden.ok()) << overridden.status().message();
  EXPECT_EQ(overridden->tasks[0].metrics[1], (MetricConfig{.type = "ndcg", .by = "user_id", .k = 5}));
}

TEST(ConfigReadTest, MetricsThatAreWrong) {
  const auto says = [](const std::string& metrics, const std::string& part) {
    const std::string message = Mistake(SmallYaml(), {"tasks.click.metrics=" + metrics});
    ExpectSays(message, part);
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  };
  says("[aux]",
       "tasks.click.metrics.0: must be one of auc, gauc, logloss, ne, calibration, calibration_error, accuracy, rmse, mae, xauc, "
       "recall, ndcg, found aux; did you mean auc?");
  says("{group_auc: user_id}", "found group_auc; write gauc");
  says("[grouped_auc]", "found grouped_auc; write gauc");
  says("[Normalized-Entropy]", "found Normalized-Entropy; write ne");
  says("[mape]", "found mape; write mae: gatemill has no relative error");
  says("[{hitrate: 10}]", "found hitrate; write recall, which is the same where groups have one positive");
  says("[ndcg@10]", "found ndcg@10; write {ndcg: {by: COLUMN, k: 10}}");
  says("[[auc]]", "tasks.click.metrics.0: must be one of auc, ");
  says("{gauc: user_id, auc: null}", "tasks.click.metrics: must be a name, or {NAME: {...}} with one name, found a map of 2; "
                                     "make each an entry of its own");
  says("[{ndcg: {by: user_id, k: 0}}]", "tasks.click.metrics.0.ndcg.k: must be 1 to 1000000, found 0");
  says("[{ndcg: {by: user_id, top_k: 5}}]", "tasks.click.metrics.0.ndcg.top_k: unknown key; write k");
  says("[{gauc: {grouping_key: user_id}}]", "tasks.click.metrics.0.gauc.grouping_key: unknown key; write by");
  says("[{gauc: {by: user_id, k: 5}}]", "tasks.click.metrics.0.gauc.k: has no effect here, it is for recall, ndcg; remove it");
  says("[{auc: {by: user_id}}]", "tasks.click.metrics.0.auc.by: has no effect here, it is for gauc, recall, ndcg; remove it");
  says("[{auc: user_id}]", "tasks.click.metrics.0.auc: must be a map of keys, found user_id");
  says("[{calibration_error: {buckets: 0}}]", "tasks.click.metrics.0.calibration_error.buckets: must be 1 to 65536, found 0");
  says("[{gauc: {by: user_id, buckets: 5}}]", "buckets: has no effect here, it is for calibration_error; remove it");
  ExpectSays(Mistake(R"(data: {train: a.csv}
features: [{columns: a, type: dense}]
tasks:
  click:
    label_name: y
    metrics:
      - auc
      - {gauc: {by: a, at: 3}}
)"),
             "c.yaml:8:24: tasks.click.metrics.1.gauc.at: unknown key; write k");
}

TEST(ConfigReadTest, EveryMistakeAtOnceInOrder) {
  const std::string message = Mistake(SmallYaml("train: {epochs: 3, seed: x}\nmodel: {num_expert: 0}\nmodel: {}\n"),
                                      {"ps.thread=1", "ps.deadline_ms=0"});
  EXPECT_EQ(message,
            "c.yaml:11:9: train.epochs: unknown key; write num_epochs\n"
            "c.yaml:11:26: train.seed: must be a whole number, found x\n"
            "c.yaml:13:1: model: stands here twice, first in line 12; keep one\n"
            "--set ps.deadline_ms=0: ps.deadline_ms: must be 1 to 86400000, found 0\n"
            "--set ps.thread=1: ps.thread: unknown key; did you mean threads?");
}

TEST(ConfigReadTest, DocumentsThatAreNone) {
  ExpectSays(Mistake(""), "c.yaml: is empty");
  ExpectSays(Mistake("- a\n"), "c.yaml:1:1: must be a map");
  ExpectSays(Mistake("a: [\n"), "this is not YAML");
  const Result<Config> missing = LoadConfig("/nowhere/c.yaml", {});
  EXPECT_EQ(missing.status().code(), Code::kInvalidInput);
  ExpectSays(missing.status().message(), "/nowhere/c.yaml");
}

TEST(ConfigReadTest, ReadConfigKeepsWhatIsRight) {
  const std::string path = testing::TempDir() + "/config_read_test_partly.yaml";
  ASSERT_TRUE(WriteFileAtomic(path, SmallYaml("model: {num_expert: many, type: omoe}\n")).ok());
  const ConfigReading reading = ReadConfig(path, {});
  EXPECT_TRUE(reading.readable);
  ExpectSays(reading.status.message(), "must be a whole number, found many");
  EXPECT_EQ(reading.config.model.num_expert, 8);
  EXPECT_EQ(reading.config.model.type, "omoe");
  EXPECT_EQ(reading.config.features.size(), 2U);
  std::filesystem::remove(path);
  EXPECT_FALSE(ReadConfig(path, {}).readable);
  EXPECT_EQ(ReadConfig(path, {}).status.code(), Code::kInvalidInput);
}

TEST(ConfigReadTest, LoadsAFile) {
  const std::string path = testing::TempDir() + "/config_read_test.yaml";
  ASSERT_TRUE(WriteFileAtomic(path, SmallYaml()).ok());
  const Result<Config> config = LoadConfig(path, {"train.seed=5"});
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->path, path);
  EXPECT_EQ(config->train.seed, 5U);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace gatemill
