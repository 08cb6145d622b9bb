#include "worker/model/functions.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>

#include "tests/worker/model/model_testing.h"
#include "worker/model/network.h"

namespace gatemill::model {
namespace {

// One pass over the whole network with the CPU kernels, or composed of LibTorch's operators as on CUDA.
struct Pass {
  Tensors outputs;
  at::Tensor grad_x;
  at::Tensor gradients;
  std::vector<std::vector<double>> gate_sums;
};
Pass RunPass(const ModelSpec& spec, bool fused, bool training) {
  const auto plan = PlanNetwork(spec);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  const Products products(Products::Library::kBySize);
  at::Tensor parameters = at::empty({plan->size});
  InitializeParameters(*plan, spec.model.initializer, 3, parameters);
  Pass pass;
  pass.gradients = at::zeros_like(parameters);
  Tensors buffers;
  for (const BufferPlan& buffer : plan->buffers) buffers.push_back(at::full({buffer.size}, buffer.initial));
  const Network network(*plan, parameters, pass.gradients, buffers, products);
  const testing::Batch batch = testing::MakeBatch(spec, 90, 4);
  StepContext step{.training = training, .fused = fused, .seed = 3, .step = 8, .samples = batch.samples};
  const at::Tensor x = at::from_blob(const_cast<float*>(batch.x.data()), {batch.rows, spec.x_dim}, at::kFloat).clone();
  x.requires_grad_(true);
  pass.outputs = network.Forward(&step, x);
  Tensors grads;
  for (const at::Tensor& output : pass.outputs) grads.push_back(at::cos(at::arange(output.numel(), at::kFloat)).view_as(output));
  pass.grad_x = torch::autograd::grad(pass.outputs, {x}, grads)[0];
  pass.gate_sums = step.gate_sums;
  return pass;
}

TEST(Functions, KernelsAndComposedOperatorsAgree) {
  for (const char* type : {"single", "shared_bottom", "omoe", "mmoe", "ple", "esmm", "aitm"}) {
    ModelSpec spec = testing::MakeSpec(type);
    spec.model.expert_mlp.dropout_ratio = {0.25, 0.0};
    spec.model.gate_mlp = MlpConfig{.hidden_units = {6}, .activation = "relu", .dropout_ratio = {0.5}};
    spec.model.tower_mlp.use_bn = true;
    const Pass fused = RunPass(spec, true, true);
    const Pass composed = RunPass(spec, false, true);
    for (std::size_t t = 0; t < fused.outputs.size(); ++t) {
      EXPECT_LT((fused.outputs[t] - composed.outputs[t]).abs().max().item<float>(), 1e-5) << type;
    }
    EXPECT_LT((fused.grad_x - composed.grad_x).abs().max().item<float>(), 1e-4) << type;
    EXPECT_LT((fused.gradients - composed.gradients).abs().max().item<float>(), 1e-3) << type;
    EXPECT_GT(fused.gradients.abs().max().item<float>(), 0.1) << type;
    ASSERT_EQ(fused.gate_sums.size(), composed.gate_sums.size());
    for (std::size_t g = 0; g < fused.gate_sums.size(); ++g) {
      ASSERT_EQ(fused.gate_sums[g].size(), composed.gate_sums[g].size());
      for (std::size_t e = 0; e < fused.gate_sums[g].size(); ++e) EXPECT_NEAR(fused.gate_sums[g][e], composed.gate_sums[g][e], 1e-4);
    }
  }
}

TEST(Functions, BothDropoutMasksAreTheSame) {
  const std::vector<std::uint64_t> samples = {0, 1, 17, ~0ULL, 123456789012345ULL};
  const StepContext step{.training = true, .seed = 5, .step = 6, .samples = samples};
  const DropoutSite site{.id = 9, .columns = 300, .ratio = 0.35};
  const at::Tensor like = at::empty({5, 1});
  const at::Tensor by_kernel = DropoutMaskTensor(step, site, like, true);
  EXPECT_TRUE(at::equal(by_kernel, DropoutMaskTensor(step, site, like, false)));
  EXPECT_NEAR(by_kernel.mean().item<float>(), 1.0, 0.1);
}

TEST(Functions, EvaluationDropsNothing) {
  ModelSpec spec = testing::MakeSpec("mmoe");
  const Pass plain = RunPass(spec, true, false);
  spec.model.expert_mlp.dropout_ratio = {0.5};
  for (const bool fused : {true, false}) {
    const Pass evaluated = RunPass(spec, fused, false);
    EXPECT_LT((evaluated.outputs[0] - plain.outputs[0]).abs().max().item<float>(), 1e-5);
  }
}

// What gates gave in a pass, of 90 rows.
std::vector<std::vector<double>> GateSums(const std::function<void(ModelConfig*)>& change, bool training) {
  ModelSpec spec = testing::MakeSpec("mmoe");
  change(&spec.model);
  return RunPass(spec, true, training).gate_sums;
}

TEST(Functions, GateDropoutLeavesExpertsOutInTrainingAndRenormalizes) {
  const auto drop = [](ModelConfig* model) { model->gate_dropout_ratio = 0.4; };
  const auto nothing = [](ModelConfig*) {};
  for (const auto& gate : GateSums(drop, true)) EXPECT_NEAR(gate[0] + gate[1] + gate[2], 90.0, 1e-4);
  EXPECT_NE(GateSums(drop, true), GateSums(nothing, true));
  const auto without = GateSums(nothing, false);
  const auto with = GateSums(drop, false);
  for (std::size_t e = 0; e < 3; ++e) EXPECT_NEAR(with[0][e], without[0][e], 1e-4) << "evaluation drops nothing";
}

TEST(Functions, TopKKeepsTheLargestWeights) {
  const auto sums = [](int k) { return GateSums([k](ModelConfig* model) { model->top_k = k; }, false)[0]; };
  const auto all = sums(0);
  const auto two = sums(2);
  const auto one = sums(1);
  EXPECT_NEAR(two[0] + two[1] + two[2], 90.0, 1e-4) << "the kept weights sum to 1";
  EXPECT_LT(one[0] + one[1] + one[2], 89.0) << "one kept weight stays what it is";
  EXPECT_GT(one[0] + one[1] + one[2], 30.0);
  EXPECT_NE(two, all);
  for (std::size_t e = 0; e < 3; ++e) {
    EXPECT_LE(one[e], all[e] + 1e-4);
    EXPECT_NEAR(sums(3)[e], all[e], 1e-4) << "of three experts three are all";
  }
}

class FailingCollective final : public collective::Collective {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 2; }
  Status AllReduceSum(std::span<float>) override { return DeadlineExceeded("worker 1 is gone"); }
  Status AllReduceSum(std::span<double>) override { return DeadlineExceeded("worker 1 is gone"); }
  Result<std::vector<std::string>> AllGather(const std::string&) override { return Internal("unused"); }
  Result<std::string> Broadcast(const std::string&, int) override { return Internal("unused"); }
  Status Barrier() override { return Internal("unused"); }
};

TEST(Functions, AFailingCollectiveLeavesItsStatus) {
  ModelSpec spec = testing::MakeSpec("mmoe");
  spec.model.expert_mlp.use_bn = true;
  FailingCollective workers;
  spec.workers = &workers;
  const auto library = Products(Products::Library::kAten);
  const auto plan = PlanNetwork(spec);
  const at::Tensor flat = at::zeros({plan->size});
  Tensors buffers;
  for (const BufferPlan& buffer : plan->buffers) buffers.push_back(at::zeros({buffer.size}));
  const Network network(*plan, flat, flat.clone(), buffers, library);
  StepContext step{.training = true, .workers = &workers};
  EXPECT_ANY_THROW((void)network.Forward(&step, at::zeros({4, spec.x_dim})));
  EXPECT_EQ(step.status.code(), Code::kDeadline);
}

}  // namespace
}  // namespace gatemill::model
