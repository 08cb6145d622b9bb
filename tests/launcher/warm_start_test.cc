#include "launcher/warm_start.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace gatemill::launcher {
namespace {

using Tensor = model::DenseModel::Tensor;

constexpr const char* kYaml = R"(
data: {train: log.csv}
tables: {user: {oov_buckets: 2}}
features:
  - {columns: [user, item], type: sparse, embedding_dim: 2}
  - {columns: price, type: dense, transform: zscore}
  - {columns: price, name: bucket, type: dense, bucketize: {quantiles: 3}}
model: {type: mmoe, num_expert: 2, expert_mlp: {hidden_units: [2], use_bn: true}, tower_mlp: {hidden_units: []}}
tasks: {click: {label_name: click}, buy: {label_name: buy}}
)";

struct Side {
  Config config;
  data::Schema schema;
  [[nodiscard]] WarmSide side() const { return {.config = &config, .schema = &schema}; }
};

Side SideOf(const std::vector<std::string>& overrides) {
  Side side;
  auto config = ParseConfig(kYaml, "job.yaml", overrides);
  EXPECT_TRUE(config.ok()) << config.status().message();
  if (config.ok()) side.config = *config;
  auto schema = data::ResolveSchema(side.config, {"user", "item", "price", "shop", "click", "buy"});
  EXPECT_TRUE(schema.ok()) << schema.status().message();
  if (schema.ok()) side.schema = *schema;
  return side;
}

// Every number of a tensor says where it is from.
std::vector<Tensor> TensorsOf(const Side& side, float begin) {
  const model::ModelSpec spec{.x_dim = side.schema.x_dim(), .model = side.config.model, .tasks = side.config.tasks};
  std::vector<Tensor> tensors;
  const auto add = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
    Tensor tensor{.name = name, .shape = shape, .values = {}};
    std::int64_t size = 1;
    for (const std::int64_t d : shape) size *= d;
    for (std::int64_t i = 0; i < size; ++i) tensor.values.push_back(begin + static_cast<float>(i));
    tensors.push_back(std::move(tensor));
  };
  for (const model::Parameter& parameter : model::DescribeParameters(spec)) {
    add(parameter.name, parameter.shape);
    add("optimizer/" + parameter.name + "/m", parameter.shape);
    if (parameter.name.ends_with("bn_weight")) {
      add(parameter.name.substr(0, parameter.name.rfind('.')) + ".running_mean", parameter.shape);
    }
  }
  return tensors;
}

const Tensor& Named(const std::vector<Tensor>& tensors, const std::string& name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& tensor) { return tensor.name == name; });
  EXPECT_NE(found, tensors.end()) << name;
  return found == tensors.end() ? tensors.front() : *found;
}

bool Takes(const WarmStart& warm, const std::string& name) {
  return std::find(warm.parameters.begin(), warm.parameters.end(), name) != warm.parameters.end();
}

bool Says(const WarmStart& warm, const std::string& line) {
  return std::find(warm.left.begin(), warm.left.end(), line) != warm.left.end();
}

std::string Text(const WarmStart& warm) {
  std::string text;
  for (const std::string& line : warm.left) text += line + "\n";
  return text;
}

TEST(WarmStart, TheSameModelIsTakenWhole) {
  const Side side = SideOf({});
  const WarmStart warm = PlanWarmStart(side.side(), side.side());
  EXPECT_EQ(Text(warm), "");
  EXPECT_EQ(warm.tables.size(), side.schema.server_tables.size());
  const std::vector<Tensor> saved = TensorsOf(side, 1000.0F);
  const std::vector<Tensor> taken = TakeParameters(warm, saved, TensorsOf(side, 0.0F));
  std::size_t parameters = 0;
  for (const Tensor& tensor : taken) {
    EXPECT_FALSE(tensor.name.starts_with("optimizer/"));
    EXPECT_EQ(tensor.values, Named(saved, tensor.name).values) << tensor.name;
    ++parameters;
  }
  EXPECT_GT(parameters, 10U);
}

// item is gone, shop is new and in front, so that everything lies elsewhere.
TEST(WarmStart, WeightsOfXFollowTheirFeatures) {
  const Side then = SideOf({});
  const Side now = SideOf({"features.0.columns=[shop, user]"});
  const WarmStart warm = PlanWarmStart(now.side(), then.side());
  EXPECT_TRUE(Says(warm, "feature shop: it is not in the checkpoint")) << Text(warm);
  EXPECT_TRUE(Says(warm, "feature item: there is none here")) << Text(warm);
  EXPECT_TRUE(Says(warm, "table shop: it is not in the checkpoint")) << Text(warm);
  EXPECT_TRUE(Says(warm, "table item: there is none here")) << Text(warm);
  ASSERT_EQ(now.schema.x_dim(), 8);  // shop 2, user 2, price 1, bucket 3; before: user, item, price, bucket
  const std::vector<Tensor> taken = TakeParameters(warm, TensorsOf(then, 1000.0F), TensorsOf(now, 0.0F));
  EXPECT_EQ(Named(taken, "experts.1.0.weight").values,
            (std::vector<float>{0, 1, 1000, 1001, 1004, 1005, 1006, 1007, 8, 9, 1008, 1009, 1012, 1013, 1014, 1015}));
  EXPECT_EQ(Named(taken, "experts.1.0.running_mean").values, (std::vector<float>{1000, 1001}));
  EXPECT_EQ(Named(taken, "towers.buy.out.weight").values, (std::vector<float>{1000, 1001}));
}

TEST(WarmStart, WhatMeansSomethingElseIsLeft) {
  const Side then = SideOf({});
  struct Case {
    std::vector<std::string> changes;
    std::string line;
  };
  for (const Case& changed : {
           Case{{"features.0.embedding_dim=3"}, "table user: embedding_dim is 3, in the checkpoint 2"},
           Case{{"features.0.embedding_dim=3"}, "feature item: its embedding_dim is another"},
           Case{{"tables.user.oov_buckets=5"}, "table user#oov: oov_buckets is 5, in the checkpoint 2"},
           Case{{"tables.item.hash_buckets=50"}, "table item: hash_buckets is 50, in the checkpoint 0"},
           Case{{"features.1.transform=[log1p]"}, "feature price: transform is another"},
           Case{{"features.2.bucketize={quantiles: 4}"}, "feature bucket: bucketize is another"},
           Case{{"features.0.separator=|"}, "feature user: separator, pooling or max_length is another"},
           Case{{"model.num_expert=1"}, "parameter experts.1.0.weight: there is none here"},
           Case{{"model.num_expert=1"}, "parameter gates.buy.linear.weight: its shape is [1, 8], in the checkpoint [2, 8]"},
           Case{{"model.expert_mlp.hidden_units=[3]"}, "parameter experts.0.0.bias: its shape is [3], in the checkpoint [2]"},
           Case{{"model.type=single"}, "parameter experts.buy.0.weight: it is not in the checkpoint"},
           Case{{"model.bottom_mlp={hidden_units: [8]}"}, "parameter experts.0.0.weight: it reads something else"},
       }) {
    const WarmStart warm = PlanWarmStart(SideOf(changed.changes).side(), then.side());
    EXPECT_TRUE(Says(warm, changed.line)) << changed.changes[0] << ": " << changed.line << "\n" << Text(warm);
  }
}

TEST(WarmStart, ExpertsOfTasksFollowTheirTasks) {
  const Side then = SideOf({"model.type=single"});
  const Side now = SideOf({"model.type=single", "tasks={click: {label_name: click}, sell: {label_name: buy}}"});
  const WarmStart warm = PlanWarmStart(now.side(), then.side());
  EXPECT_TRUE(Takes(warm, "experts.click.0.weight"));
  EXPECT_FALSE(Takes(warm, "experts.sell.0.weight"));
}

TEST(WarmStart, WhatDependsOnTheOrderOfTasksIsLeftWhenItIsAnother) {
  const auto tasks = [](const std::string& names) {
    std::string text = "tasks={";
    for (const char name : names) text += std::string(1, name) + ": {label_name: click}, ";
    return text + "}";
  };
  for (const auto& [type, name] : {std::pair{"ple", "levels.0.gates.shared.linear.weight"}, {"aitm", "transfers.c.value.weight"}}) {
    const std::vector<std::string> changes = {"model.type=" + std::string(type), "model.num_level=2"};
    const Side then = SideOf({changes[0], changes[1], tasks("abc")});
    const Side other = SideOf({changes[0], changes[1], tasks("bac")});
    EXPECT_TRUE(Takes(PlanWarmStart(then.side(), then.side()), name));
    const WarmStart warm = PlanWarmStart(other.side(), then.side());
    EXPECT_FALSE(Takes(warm, name));
    EXPECT_TRUE(Says(warm, "parameter " + std::string(name) + ": it belongs to other tasks")) << Text(warm);
    EXPECT_TRUE(Takes(warm, "towers.a.out.weight"));
  }
}

TEST(WarmStart, GatesThatReadOtherFeaturesAreLeft) {
  const Side then = SideOf({"model.gate_features=[user]"});
  const Side other = SideOf({"model.gate_features=[item]"});
  const WarmStart warm = PlanWarmStart(other.side(), then.side());
  EXPECT_TRUE(Says(warm, "parameter gates.buy.linear.weight: it reads something else")) << Text(warm);
  EXPECT_FALSE(Takes(warm, "gates.buy.linear.weight"));
  const Side same = SideOf({"model.gate_features=[us*]"});
  EXPECT_TRUE(Takes(PlanWarmStart(same.side(), then.side()), "gates.buy.linear.weight"));
}

TEST(WarmStart, StatisticsAreThoseOfTheSameFeatures) {
  const Side then = SideOf({});
  const Side now = SideOf({"features.2.bucketize={quantiles: 4}"});
  const WarmStart warm = PlanWarmStart(now.side(), then.side());
  const auto statistics = [](double value) {
    data::Statistics all;
    all.sparse_boundaries.resize(2);
    all.dense.resize(2, {.min = value, .max = value, .mean = value, .std = value});
    all.dense_boundaries = {{}, {value}};
    return all;
  };
  const data::Statistics taken = TakeStatistics(warm, statistics(7.0), statistics(1.0));
  EXPECT_EQ(taken.dense[0].mean, 7.0);
  EXPECT_EQ(taken.dense[1].mean, 1.0);
  EXPECT_EQ(taken.dense_boundaries[1], std::vector<double>{1.0});
}

}  // namespace
}  // namespace gatemill::launcher
