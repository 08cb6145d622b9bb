#include "worker/model/network_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace gatemill::model {
namespace {

ModelSpec Spec(const std::string& type) {
  ModelSpec spec;
  spec.x_dim = 10;
  spec.model.type = type;
  spec.model.num_expert = 2;
  spec.model.expert_mlp.hidden_units = {8, 4};
  spec.model.tower_mlp.hidden_units = {3};
  spec.tasks.resize(2);
  spec.tasks[0].name = "a";
  spec.tasks[1].name = "b";
  return spec;
}

std::vector<std::string> WeightNames(const ModelSpec& spec) {
  std::vector<std::string> names;
  for (const Parameter& parameter : DescribeParameters(spec)) {
    if (parameter.name.ends_with(".weight")) names.push_back(parameter.name);
  }
  return names;
}

using Names = std::vector<std::string>;

TEST(NetworkPlan, NamesOfEachModelType) {
  ModelSpec mmoe = Spec("mmoe");
  mmoe.model.gate_mlp = MlpConfig{.hidden_units = {5}, .activation = "relu", .dropout_ratio = {}};
  const std::set<std::string> names_of_mmoe = {
      "experts.0.0.weight", "experts.0.1.weight", "experts.1.0.weight", "experts.1.1.weight", "gates.a.mlp.0.weight",
      "gates.a.linear.weight", "gates.b.mlp.0.weight", "gates.b.linear.weight", "towers.a.0.weight",
      "towers.a.out.weight", "towers.b.0.weight", "towers.b.out.weight"};
  const Names mmoe_names = WeightNames(mmoe);
  EXPECT_EQ(std::set<std::string>(mmoe_names.begin(), mmoe_names.end()), names_of_mmoe);
  EXPECT_EQ(WeightNames(Spec("shared_bottom")),
            (Names{"bottom.0.weight", "bottom.1.weight", "towers.a.0.weight", "towers.a.out.weight", "towers.b.0.weight",
                   "towers.b.out.weight"}));
  EXPECT_EQ(WeightNames(Spec("omoe")),
            (Names{"experts.0.0.weight", "experts.0.1.weight", "experts.1.0.weight", "experts.1.1.weight",
                   "gates.all.linear.weight", "towers.a.0.weight", "towers.a.out.weight", "towers.b.0.weight",
                   "towers.b.out.weight"}));
  EXPECT_EQ(WeightNames(Spec("single")),
            (Names{"experts.a.0.weight", "experts.a.1.weight", "experts.b.0.weight", "experts.b.1.weight", "towers.a.0.weight",
                   "towers.a.out.weight", "towers.b.0.weight", "towers.b.out.weight"}));
  EXPECT_EQ(WeightNames(Spec("esmm")), WeightNames(Spec("single")));
  Names aitm = WeightNames(Spec("single"));
  for (const char* part : {"value", "key", "query", "info.0"}) {
    aitm.insert(aitm.begin() + 4, "transfers.b." + std::string(part) + ".weight");
  }
  EXPECT_EQ(WeightNames(Spec("aitm")), aitm);
}

TEST(NetworkPlan, LevelsOfPle) {
  ModelSpec spec = Spec("ple");
  spec.model.num_level = 2;
  spec.model.num_task_expert = 1;
  spec.model.expert_mlp.hidden_units = {4};
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const Parameter& parameter : DescribeParameters(spec)) shapes[parameter.name] = parameter.shape;
  EXPECT_EQ(shapes["levels.0.experts.1.0.weight"], (std::vector<std::int64_t>{4, 10}));
  EXPECT_EQ(shapes["levels.1.task_experts.b.0.0.weight"], (std::vector<std::int64_t>{4, 4}));
  EXPECT_EQ(shapes["levels.0.gates.a.linear.weight"], (std::vector<std::int64_t>{3, 10})) << "its own and two shared experts";
  EXPECT_EQ(shapes["levels.0.gates.shared.linear.weight"], (std::vector<std::int64_t>{4, 10})) << "all experts";
  EXPECT_EQ(shapes["levels.1.gates.b.linear.weight"], (std::vector<std::int64_t>{3, 4}));
  EXPECT_FALSE(shapes.contains("levels.1.gates.shared.linear.weight"));
  EXPECT_EQ(shapes["towers.a.0.weight"], (std::vector<std::int64_t>{3, 4}));
}

TEST(NetworkPlan, GatesReadTheirColumns) {
  ModelSpec spec = Spec("mmoe");
  spec.gate_columns = {{.offset = 0, .count = 2}, {.offset = 5, .count = 1}};
  for (const Parameter& parameter : DescribeParameters(spec)) {
    if (parameter.name == "gates.a.linear.weight") {
      EXPECT_EQ(parameter.shape, (std::vector<std::int64_t>{2, 3}));
    }
    if (parameter.name == "experts.0.0.weight") {
      EXPECT_EQ(parameter.shape, (std::vector<std::int64_t>{8, 10}));
    }
  }
}

TEST(NetworkPlan, ShapesAndBatchNorm) {
  ModelSpec spec = Spec("mmoe");
  spec.model.expert_mlp.use_bn = true;
  spec.model.gate_bias = false;
  const auto plan = PlanNetwork(spec);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  const auto find = [&](const std::string& name) {
    return std::find_if(plan->parameters.begin(), plan->parameters.end(), [&](const auto& p) { return p.name == name; });
  };
  EXPECT_EQ(find("experts.1.1.weight")->shape, (std::vector<std::int64_t>{4, 8}));
  EXPECT_EQ(find("experts.0.0.bn_weight")->shape, (std::vector<std::int64_t>{8}));
  EXPECT_EQ(find("gates.a.linear.bias"), plan->parameters.end());
  EXPECT_EQ(plan->buffers.size(), 8U);
  EXPECT_EQ(plan->buffers[0].name, "experts.0.0.running_mean");
}

TEST(NetworkPlan, EveryNumberOfTheFlatBufferBelongsToOneParameter) {
  for (const char* type : {"single", "shared_bottom", "omoe", "mmoe", "ple", "esmm", "aitm"}) {
    ModelSpec spec = Spec(type);
    spec.model.num_level = 2;
    spec.model.gate_bn = true;
    spec.model.expert_mlp.use_ln = true;
    spec.model.expert_mlp.activation = "prelu";
    spec.model.tower_mlp.use_bn = true;
    spec.model.tower_mlp.activation = "dice";
    const auto plan = PlanNetwork(spec);
    std::vector<int> owners(static_cast<std::size_t>(plan->size), 0);
    for (const ParameterPlan& p : plan->parameters) {
      const std::int64_t columns = p.shape.size() == 2 ? p.shape[1] : 1;
      for (std::int64_t row = 0; row < p.shape[0]; ++row) {
        for (std::int64_t column = 0; column < columns; ++column) {
          const std::int64_t at = p.offset + row * p.stride[0] + (p.shape.size() == 2 ? column * p.stride[1] : 0);
          ASSERT_LT(at, plan->size) << p.name;
          ASSERT_EQ(owners[static_cast<std::size_t>(at)]++, 0) << p.name;
        }
      }
    }
  }
}

void ExpectRefused(const ModelSpec& spec, const std::string& part) {
  const auto plan = PlanNetwork(spec);
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.status().code(), Code::kInvalidInput);
  EXPECT_NE(plan.status().message().find(part), std::string::npos) << plan.status().message();
  EXPECT_TRUE(DescribeParameters(spec).empty());
}

TEST(NetworkPlan, ImpossibleSpecsAreRefusedByName) {
  const ModelSpec good = Spec("mmoe");
  const auto with = [&](auto change) {
    ModelSpec spec = good;
    change(spec);
    return spec;
  };
  ExpectRefused(with([](auto& s) { s.model.num_expert = 0; }), "model.num_expert: 0");
  ExpectRefused(with([](auto& s) { s.model.num_expert = 1000000000; }), "model.num_expert: 1000000000");
  ExpectRefused(with([](auto& s) { s.model.type = "ple2"; }), "\"ple2\"");
  ExpectRefused(with([](auto& s) { s.x_dim = 0; }), "at least one feature");
  ExpectRefused(with([](auto& s) { s.tasks.clear(); }), "tasks");
  ExpectRefused(with([](auto& s) { s.tasks[1].loss[0].type = "hinge"; }), "tasks.b.loss");
  ExpectRefused(with([](auto& s) { s.model.expert_mlp.hidden_units = {8, -1}; }), "-1 units");
  ExpectRefused(with([](auto& s) { s.model.expert_mlp.hidden_units.clear(); }), "model.expert_mlp.hidden_units: empty");
  ExpectRefused(with([](auto& s) { s.model.expert_mlp.dropout_ratio = {1.0}; }), "dropout_ratio");
  ExpectRefused(with([](auto& s) { s.model.expert_mlp.dropout_ratio = {.1, .1, .1}; }), "3 values for 2 layers");
  ExpectRefused(with([](auto& s) { s.model.tower_mlp.activation = "swosh"; }), "\"swosh\"");
  ExpectRefused(with([](auto& s) { s.optimizer.type = "lion"; }), "\"lion\"");
  ExpectRefused(with([](auto& s) { s.optimizer.lr = -1; }), "lr");
  ExpectRefused(with([](auto& s) { s.threads = 0; }), "train.threads");
  ExpectRefused(with([](auto& s) { s.device = "tpu"; }), "train.device");
  ExpectRefused(with([](auto& s) { s.model.expert_mlp.hidden_units = {2000000000, 2000000000}; }), "dense parameters");
  ExpectRefused(with([](auto& s) { s.x_dim = 2000000000; }), "dense parameters");
  ExpectRefused(with([](auto& s) { s.model.type = "single"; s.model.bottom_mlp.emplace(); }), "model.bottom_mlp");
  ExpectRefused(with([](auto& s) { s.model.top_k = 3; }), "model.top_k: 3; a gate has 2 experts");
  ExpectRefused(with([](auto& s) { s.model.gate_dropout_ratio = 1.0; }), "model.gate_dropout_ratio");
  ExpectRefused(with([](auto& s) { s.model.tower_mlp.use_bn = s.model.tower_mlp.use_ln = true; }), "use_bn and use_ln");
  ExpectRefused(with([](auto& s) { s.model.type = "ple"; s.model.num_level = 0; }), "model.num_level: 0");
  ExpectRefused(with([](auto& s) { s.model.type = "ple"; s.model.num_expert = s.model.num_task_expert = 0; }), "no shared and no task");
  ExpectRefused(with([](auto& s) { s.model.type = "esmm"; s.tasks[0].loss[0].type = "mse"; }), "esmm multiplies probabilities");
  ExpectRefused(with([](auto& s) { s.model.type = "aitm"; s.model.transfer_mlp.emplace().hidden_units = {9}; }),
                "as wide as expert_mlp's, 4");
  // Two mistakes, both told.
  const auto both = with([](auto& s) { s.model.num_expert = 0; s.x_dim = 0; });
  ExpectRefused(both, "model.num_expert");
  ExpectRefused(both, "at least one feature");
}

}  // namespace
}  // namespace gatemill::model
