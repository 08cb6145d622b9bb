#include "worker/model/dense_optimizer.h"

#include <gtest/gtest.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <memory>

namespace gatemill::model {
namespace {

constexpr std::int64_t kSize = 70001;  // several chunks and a rest

std::unique_ptr<torch::optim::Optimizer> TorchOptimizer(const DenseOptimizerConfig& c, const at::Tensor& parameter) {
  const std::vector<at::Tensor> parameters = {parameter};
  if (c.type == "adam") {
    return std::make_unique<torch::optim::Adam>(
        parameters, torch::optim::AdamOptions(c.lr).betas({c.beta1, c.beta2}).eps(c.eps).weight_decay(c.weight_decay));
  }
  if (c.type == "adamw") {
    return std::make_unique<torch::optim::AdamW>(
        parameters, torch::optim::AdamWOptions(c.lr).betas({c.beta1, c.beta2}).eps(c.eps).weight_decay(c.weight_decay));
  }
  if (c.type == "adagrad") {
    return std::make_unique<torch::optim::Adagrad>(
        parameters, torch::optim::AdagradOptions(c.lr).eps(c.eps).weight_decay(c.weight_decay).initial_accumulator_value(
                        c.initial_accumulator));
  }
  return std::make_unique<torch::optim::SGD>(
      parameters, torch::optim::SGDOptions(c.lr).momentum(c.momentum).weight_decay(c.weight_decay));
}

std::vector<DenseOptimizerConfig> Configs() {
  std::vector<DenseOptimizerConfig> configs;
  for (const char* type : {"adam", "adamw", "adagrad", "sgd"}) {
    for (const double decay : {0.0, 0.01}) {
      DenseOptimizerConfig config;
      config.type = type;
      config.lr = 0.01;
      config.weight_decay = decay;
      config.initial_accumulator = 0.1;
      configs.push_back(config);
    }
  }
  configs.back().momentum = 0.9;
  return configs;
}

// float tensors take the flat loops, double ones the operators that CUDA takes.
TEST(DenseOptimizer, TenStepsAreTorchOptims) {
  for (const DenseOptimizerConfig& config : Configs()) {
    for (const auto type : {at::kFloat, at::kDouble}) {
      at::Tensor mine = at::randn({kSize}, type);
      at::Tensor theirs = mine.clone().requires_grad_(true);
      const auto reference = TorchOptimizer(config, theirs);
      DenseOptimizer optimizer(config, mine);
      for (std::uint64_t step = 0; step < 10; ++step) {
        const at::Tensor gradient = at::randn({kSize}, type);
        theirs.mutable_grad() = gradient.clone();
        reference->step();
        optimizer.Apply(step, mine, gradient);
      }
      EXPECT_LT((mine - theirs.detach()).abs().max().item<double>(), type == at::kFloat ? 2e-6 : 1e-12)
          << config.type << " decay " << config.weight_decay;
    }
  }
}

TEST(DenseOptimizer, StateHasPyTorchsNames) {
  const auto names = [](const char* type, double momentum) {
    DenseOptimizerConfig config;
    config.type = type;
    config.momentum = momentum;
    std::vector<std::string> found;
    const DenseOptimizer optimizer(config, at::zeros({3}));
    for (const auto& [name, tensor] : optimizer.state()) found.push_back(name);
    return found;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(names("adam", 0), (Names{"exp_avg", "exp_avg_sq"}));
  EXPECT_EQ(names("adagrad", 0), (Names{"sum"}));
  EXPECT_EQ(names("sgd", 0.5), (Names{"momentum_buffer"}));
  EXPECT_EQ(names("sgd", 0), Names{});
}

}  // namespace
}  // namespace gatemill::model
