#include "worker/model/network.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/worker/model/model_testing.h"

namespace gatemill::model {
namespace {

at::Tensor Initialized(const NetworkPlan& plan, std::uint64_t seed) {
  at::Tensor flat = at::full({plan.size}, 5.0);
  InitializeParameters(plan, seed, flat);
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
    if (parameter.kind == ParameterKind::kBnWeight || parameter.kind == ParameterKind::kBnBias) {
      const double start = parameter.kind == ParameterKind::kBnWeight ? 1.0 : 0.0;
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
