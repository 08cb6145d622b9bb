#include "worker/model/network.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/worker/model/model_testing.h"

namespace gatemill::model {
namespace {

at::Tensor Initialized(const NetworkPlan& plan, std::uint64_t seed, const DenseInitializerConfig& initializer = {}) {
  at::Tensor flat = at::full({plan.size}, 5.0);
  InitializeParameters(plan, initializer, seed, flat);
  return flat;
}

TEST(Network, ParametersStartAsThoseOfLinearLayers) {
  ModelSpec spec = testing::MakeSpec("mmoe");
  spec.x_dim = 400;
  spec.model.expert_mlp.use_bn = true;
  const auto plan = PlanNetwork(spec);
  const at::Tensor flat = Initialized(*plan, 1);
  for (const ParameterPlan& parameter : plan->parameters) {
    const at::Tensor values = ParameterView(flat, parameter);
    if (parameter.kind == ParameterKind::kNormWeight || parameter.kind == ParameterKind::kNormBias) {
      const double start = parameter.kind == ParameterKind::kNormWeight ? 1.0 : 0.0;
      EXPECT_TRUE(at::equal(values, at::full_like(values, start)));
    }
    if (parameter.kind != ParameterKind::kWeight) continue;
    const double bound = 1.0 / std::sqrt(static_cast<double>(parameter.fan_in));
    EXPECT_LE(values.abs().max().item<double>(), bound) << parameter.name;
    if (values.numel() < 1000) continue;
    EXPECT_NEAR(values.std().item<double>(), bound / std::sqrt(3.0), 0.05 * bound) << parameter.name;
    EXPECT_NEAR(values.mean().item<double>(), 0.0, 0.05 * bound) << parameter.name;
  }
}

TEST(Network, InitializersHaveTheirDeviationsAndBiasesOfZero) {
  ModelSpec spec = testing::MakeSpec("mmoe");
  spec.x_dim = 400;
  spec.model.expert_mlp.hidden_units = {100, 50};
  spec.model.expert_mlp.activation = "prelu";
  spec.model.tower_mlp.activation = "dice";
  const auto plan = PlanNetwork(spec);
  const auto find = [&](const std::string& name) {
    return *std::find_if(plan->parameters.begin(), plan->parameters.end(), [&](const auto& p) { return p.name == name; });
  };
  struct Expected {
    DenseInitializerConfig initializer;
    double std;
    double largest;  // of a uniform draw; 0: normal
  };
  for (const Expected& expected : {
           Expected{{.type = "xavier_uniform"}, std::sqrt(2.0 / 500), std::sqrt(6.0 / 500)},
           Expected{{.type = "xavier_normal"}, std::sqrt(2.0 / 500), 0},
           Expected{{.type = "kaiming_uniform"}, std::sqrt(2.0 / 400), std::sqrt(6.0 / 400)},
           Expected{{.type = "kaiming_normal"}, std::sqrt(2.0 / 400), 0},
           Expected{{.type = "uniform", .scale = 0.3}, 0.3 / std::sqrt(3.0), 0.3},
           Expected{{.type = "normal", .scale = 0.0001}, 0.0001, 0},
       }) {
    const at::Tensor flat = Initialized(*plan, 1, expected.initializer);
    const at::Tensor weight = ParameterView(flat, find("experts.0.0.weight"));
    EXPECT_NEAR(weight.std().item<double>(), expected.std, 0.02 * expected.std) << expected.initializer.type;
    const double largest = weight.abs().max().item<double>();
    if (expected.largest > 0) {
      EXPECT_LE(largest, expected.largest) << expected.initializer.type;
    } else {
      EXPECT_GT(largest, 3 * expected.std) << expected.initializer.type;
    }
    EXPECT_EQ(ParameterView(flat, find("experts.0.0.bias")).abs().max().item<float>(), 0.0F);
    EXPECT_EQ(ParameterView(flat, find("experts.0.0.alpha")).item<float>(), 0.25F);
    EXPECT_EQ(ParameterView(flat, find("towers.click.0.alpha")).abs().max().item<float>(), 0.0F);
  }
}

TEST(Network, AParameterStartsFromItsNameAndTheSeedAlone) {
  ModelSpec few = testing::MakeSpec("mmoe");
  ModelSpec many = few;
  many.model.num_expert = 7;
  const auto plan_few = PlanNetwork(few);
  const auto plan_many = PlanNetwork(many);
  const at::Tensor flat_few = Initialized(*plan_few, 1);
  const at::Tensor flat_many = Initialized(*plan_many, 1);
  const at::Tensor other_seed = Initialized(*plan_few, 2);
  ASSERT_EQ(plan_few->parameters[0].name, plan_many->parameters[0].name);
  EXPECT_TRUE(at::equal(ParameterView(flat_few, plan_few->parameters[0]), ParameterView(flat_many, plan_many->parameters[0])));
  EXPECT_FALSE(at::equal(flat_few, other_seed));
}

TEST(Network, RowsDoNotSeeEachOther) {
  const ModelSpec spec = testing::MakeSpec("mmoe");
  const auto plan = PlanNetwork(spec);
  const Products products(Products::Library::kBySize);
  const at::Tensor flat = Initialized(*plan, 1);
  const Network network(*plan, flat, at::zeros_like(flat), {}, products);
  const at::Tensor x = at::rand({6, spec.x_dim});
  StepContext step{.training = false};
  const Tensors all = network.Forward(&step, x);
  const Tensors part = network.Forward(&step, x.narrow(0, 2, 3));
  ASSERT_EQ(all.size(), 2U);
  for (std::size_t t = 0; t < 2; ++t) EXPECT_LT((all[t].narrow(0, 2, 3) - part[t]).abs().max().item<float>(), 1e-5);
}

}  // namespace
}  // namespace gatemill::model
