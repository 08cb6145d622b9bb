#include "launcher/resume.h"

#include <gtest/gtest.h>

namespace gatemill::launcher {
namespace {

constexpr const char* kYaml = R"(
data: {train: log.csv}
tables: {user: {embedding_dim: 4}}
features: [{columns: user, type: sparse}]
tasks: {click: {label_name: click}}
train: {global_batch_size: 64, seed: 3}
)";

Config ConfigWith(const std::vector<std::string>& overrides) {
  auto config = ParseConfig(kYaml, "job.yaml", overrides);
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? *config : Config();
}

Result<std::vector<std::string>> Compare(const Config& now, const Config& then, bool mid_epoch) {
  return CompareForResume({.config = &now, .streams = false}, {.config = &then, .streams = false}, mid_epoch);
}

TEST(CompareForResume, TheResolvedConfigurationIsItsOwn) {
  const Config config = ConfigWith({});
  const auto resolved = ParseConfig(ResolvedYaml(config), "config.yaml", {});
  ASSERT_TRUE(resolved.ok());
  const auto notes = Compare(*ParseConfig(ResolvedYaml(config), "now.yaml", {}), *resolved, true);
  ASSERT_TRUE(notes.ok()) << notes.status().message();
  EXPECT_TRUE(notes->empty()) << notes->front();
}

TEST(CompareForResume, WhatMovesTheBordersOfBatchesIsRefusedInTheMiddleOfAnEpoch) {
  for (const std::string change : {"train.global_batch_size=32", "train.seed=4", "data.shuffle=false", "data.limit=10",
                                   "data.train=other.csv", "data.split=0.5", "data.format=tsv"}) {
    const std::string key = change.substr(0, change.find('='));
    const auto refused = Compare(ConfigWith({change}), ConfigWith({}), true);
    ASSERT_EQ(refused.status().code(), Code::kInvalidInput) << change;
    EXPECT_NE(refused.status().message().find("\n  " + key + " is "), std::string::npos) << refused.status().message();
    const auto said = Compare(ConfigWith({change}), ConfigWith({}), false);
    ASSERT_TRUE(said.ok()) << change;
    ASSERT_EQ(said->size(), 1U) << change;
    EXPECT_EQ(said->front().find(key + " is "), 0U) << said->front();
  }
}

TEST(CompareForResume, OtherChangesAreSaid) {
  for (const std::string change : {"train.threads=1", "train.consistency=async", "train.dense_optimizer.lr=0.5",
                                   "train.sparse_optimizer.lr=0.5", "tables.user.initializer.scale=0.5",
                                   "train.consistency={bounded: 3}", "ps.wire=bf16", "train.device=cpu", "data.missing=[x]",
                                   "data.sample_weight=w", "data.root=/elsewhere", "tasks.click.weight=5",
                                   "model.expert_mlp.activation=gelu", "tables.user.oov_buckets=3", "features.0.separator=|",
                                   "tables.user.dtype=fp16"}) {
    const auto said = Compare(ConfigWith({change}), ConfigWith({}), true);
    ASSERT_TRUE(said.ok()) << said.status().message();
    EXPECT_GE(said->size(), 1U) << change;
    for (const std::string& line : *said) EXPECT_NE(line.find(", in the checkpoint "), std::string::npos) << line;
  }
}

// Whose expert is whose goes by the order where each task has its own.
TEST(CompareForResume, AnotherOrderOfTasksIsSaid) {
  const auto with = [](const std::string& tasks) { return ConfigWith({"tasks=" + tasks}); };
  const Config one = with("{click: {label_name: click}, buy: {label_name: buy}}");
  const Config other = with("{buy: {label_name: buy}, click: {label_name: click}}");
  const auto said = Compare(one, other, true);
  ASSERT_TRUE(said.ok()) << said.status().message();
  ASSERT_EQ(said->size(), 1U);
  EXPECT_NE(said->front().find("order"), std::string::npos) << said->front();
}

TEST(CompareForResume, StreamingIsComparedByWhatItDoes) {
  const Config config = ConfigWith({});
  const Config other = ConfigWith({"data.shuffle_rows=128"});
  const auto compare = [&](bool now, bool then) {
    return CompareForResume({.config = &config, .streams = now}, {.config = &other, .streams = then}, true).status();
  };
  EXPECT_TRUE(compare(false, false).ok()) << "rows in memory have no windows";
  EXPECT_NE(compare(true, false).message().find("streaming"), std::string::npos);
  EXPECT_NE(compare(true, true).message().find("data.shuffle_rows is "), std::string::npos);
}

TEST(CompareForResume, WhatDoesNotTouchTheResultIsNotSaid) {
  for (const std::string change : {"train.num_epochs=7", "train.max_steps=9", "train.checkpoint.keep=5", "ps.transport=tcp",
                                   "train.log_every_steps=1", "data.cache_bytes=1000", "data.shuffle_rows=128"}) {
    const auto said = Compare(ConfigWith({change}), ConfigWith({}), true);
    ASSERT_TRUE(said.ok()) << said.status().message();
    EXPECT_TRUE(said->empty()) << change << ": " << said->front();
  }
}

}  // namespace
}  // namespace gatemill::launcher
