#include "worker/model/torch_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <thread>

#include "tests/worker/model/model_testing.h"
#include "worker/collective/collective.h"
#include "worker/model/cuda.h"

namespace gatemill::model {
namespace {

using testing::Batch;
using testing::MakeBatch;
using testing::MakeSpec;

std::unique_ptr<DenseModel> NewModel(const ModelSpec& spec) {
  auto model = NewTorchModel(spec);
  EXPECT_TRUE(model.ok()) << model.status().message();
  return model.ok() ? std::move(model).value() : nullptr;
}

struct StepResult {
  std::vector<float> grad_x;
  std::vector<double> losses;
};
StepResult RunStep(const ModelSpec& spec, DenseModel* model, const Batch& batch, std::uint64_t step) {
  StepResult result{.grad_x = std::vector<float>(batch.x.size()), .losses = std::vector<double>(spec.tasks.size())};
  const Status status = model->ForwardBackward(batch.Input(step), result.grad_x, result.losses);
  EXPECT_TRUE(status.ok()) << status.message();
  return result;
}

// ---- against the reference --------------------------------------------------------------------------------------------

struct Case {
  const char* name;
  ModelSpec spec;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const char* type : {"single", "shared_bottom", "omoe", "mmoe", "ple", "esmm", "aitm"}) cases.push_back({type, MakeSpec(type)});
  const auto add = [&](const char* name, const std::string& type) -> ModelSpec& {
    cases.push_back({name, MakeSpec(type)});
    return cases.back().spec;
  };
  add("gate_mlp", "mmoe").model.gate_mlp = MlpConfig{.hidden_units = {7, 5}, .activation = "relu", .dropout_ratio = {}};
  add("no_gate_bias", "mmoe").model.gate_bias = false;
  add("bottom_under_experts", "mmoe").model.bottom_mlp = MlpConfig{.hidden_units = {13}, .activation = "relu", .dropout_ratio = {}};
  add("explicit_bottom", "shared_bottom").model.bottom_mlp = MlpConfig{.hidden_units = {16, 8}, .activation = "silu", .dropout_ratio = {}};
  add("one_expert_layer", "omoe").model.expert_mlp.hidden_units = {10};
  ModelSpec& towers = add("towers_of_different_depth", "mmoe");
  towers.tasks[0].mlp = MlpConfig{.hidden_units = {6, 5, 4}, .activation = "tanh", .dropout_ratio = {}};
  towers.tasks[1].mlp = MlpConfig{.hidden_units = {}, .activation = "relu", .dropout_ratio = {}};
  for (const char* activation : {"leaky_relu", "prelu", "dice", "gelu", "silu", "tanh", "sigmoid", "linear"}) {
    add(activation, "mmoe").model.expert_mlp.activation = activation;
  }
  ModelSpec& bn = add("batch_norm", "mmoe");
  bn.model.expert_mlp.use_bn = true;
  bn.model.tower_mlp.use_bn = true;
  ModelSpec& ln = add("layer_norm", "mmoe");
  ln.model.expert_mlp.use_ln = true;
  ln.model.tower_mlp.use_ln = true;
  ModelSpec& both = add("dice_over_batch_norm", "shared_bottom");
  both.model.expert_mlp.use_bn = true;
  both.model.expert_mlp.activation = "dice";
  add("gate_bn", "mmoe").model.gate_bn = true;
  add("gate_columns", "mmoe").gate_columns = {{.offset = 1, .count = 2}, {.offset = 7, .count = 3}};
  ModelSpec& ple_gates = add("ple_with_gate_columns_and_mlp", "ple");
  ple_gates.gate_columns = {{.offset = 4, .count = 5}};
  ple_gates.model.gate_mlp = MlpConfig{.hidden_units = {6}};
  ple_gates.model.bottom_mlp = MlpConfig{.hidden_units = {13}};
  add("ple_of_one_level", "ple").model.num_level = 1;
  add("ple_of_three_levels", "ple").model.num_level = 3;
  add("ple_without_shared_experts", "ple").model.num_expert = 0;
  add("ple_without_task_experts", "ple").model.num_task_expert = 0;
  add("top_2", "mmoe").model.top_k = 2;
  add("top_1", "ple").model.top_k = 1;
  ModelSpec& three = add("aitm_of_three_tasks", "aitm");
  three.tasks.push_back({.name = "buy", .label_name = "buy"});
  three.model.transfer_mlp = MlpConfig{.hidden_units = {7, 12}, .activation = "tanh", .use_bn = true};
  add("esmm_of_three_tasks", "esmm").tasks.push_back({.name = "buy", .label_name = "buy"});
  ModelSpec& wide = add("wide_enough_for_onednn", "mmoe");
  wide.x_dim = 150;
  wide.model.expert_mlp.hidden_units = {256, 128};
  wide.model.gate_mlp = MlpConfig{.hidden_units = {64}, .activation = "relu", .dropout_ratio = {}};
  return cases;
}

class Against : public ::testing::TestWithParam<Case> {};

TEST_P(Against, PlainAutogradGivesTheSameLossesAndGradients) {
  const ModelSpec& spec = GetParam().spec;
  const Batch batch = MakeBatch(spec, spec.x_dim > 100 ? 256 : 130, 3);
  const auto model = NewModel(spec);
  testing::Reference reference(spec, model->Save());
  const std::vector<double> expected = reference.Run(batch);
  const StepResult result = RunStep(spec, model.get(), batch, 0);
  for (std::size_t t = 0; t < expected.size(); ++t) EXPECT_NEAR(result.losses[t], expected[t], 1e-5);
  const at::Tensor grad_x = at::from_blob(const_cast<float*>(result.grad_x.data()), {batch.rows, spec.x_dim}, at::kFloat);
  const double scale = reference.grad_x().abs().max().item<double>();
  ASSERT_GT(scale, 0);
  EXPECT_LT((grad_x - reference.grad_x()).abs().max().item<double>(), 2e-5 * scale);
  EXPECT_LT(testing::WorstGradient(spec, model.get(), reference), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(TorchModel, Against, ::testing::ValuesIn(Cases()),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(TorchModel, NumericDifferentiationAgreesWithDropoutOn) {
  ModelSpec spec = MakeSpec("mmoe");
  spec.model.expert_mlp.activation = "tanh";
  spec.model.expert_mlp.dropout_ratio = {0.3};
  spec.model.tower_mlp.activation = "silu";
  spec.model.tower_mlp.use_bn = true;
  const Batch batch = MakeBatch(spec, 64, 5);
  const auto model = NewModel(spec);
  RunStep(spec, model.get(), batch, 4);
  const std::vector<float> gradient(model->gradient().begin(), model->gradient().end());
  const auto plan = PlanNetwork(spec);
  const auto saved = model->Save();
  const auto loss_with = [&](std::size_t tensor, std::size_t at, double shift) {
    auto changed = saved;
    changed[tensor].values[at] += static_cast<float>(shift);
    EXPECT_TRUE(model->Load(changed, true).ok());
    const StepResult result = RunStep(spec, model.get(), batch, 4);
    return result.losses[0] * spec.tasks[0].weight + result.losses[1] * spec.tasks[1].weight;
  };
  for (std::size_t p = 0; p < plan->parameters.size(); ++p) {
    const ParameterPlan& parameter = plan->parameters[p];
    const std::size_t at = saved[p].values.size() / 2;
    const auto columns = static_cast<std::size_t>(parameter.shape.back());
    const std::int64_t flat = parameter.offset + (parameter.shape.size() == 2
        ? static_cast<std::int64_t>(at / columns) * parameter.stride[0] + static_cast<std::int64_t>(at % columns) * parameter.stride[1]
        : static_cast<std::int64_t>(at));
    const double numeric = (loss_with(p, at, 5e-3) - loss_with(p, at, -5e-3)) / 1e-2;
    EXPECT_NEAR(numeric, gradient[static_cast<std::size_t>(flat)], 2e-4 + 1e-2 * std::abs(numeric)) << parameter.name;
  }
}

// ---- the same bits ----------------------------------------------------------------------------------------------------

TEST(TorchModel, TwoModelsGiveTheSameBitsAfterTwentySteps) {
  ModelSpec spec = MakeSpec("mmoe");
  spec.x_dim = 150;
  spec.model.expert_mlp = {.hidden_units = {256, 128}, .activation = "relu", .dropout_ratio = {0.1}};
  const auto a = NewModel(spec);
  const auto b = NewModel(spec);
  for (std::uint64_t step = 0; step < 20; ++step) {
    const Batch batch = MakeBatch(spec, 256, step);
    for (DenseModel* model : {a.get(), b.get()}) {
      RunStep(spec, model, batch, step);
      ASSERT_TRUE(model->Update(step).ok());
    }
  }
  const auto left = a->Save();
  const auto right = b->Save();
  ASSERT_EQ(left.size(), right.size());
  for (std::size_t i = 0; i < left.size(); ++i) {
    ASSERT_EQ(0, std::memcmp(left[i].values.data(), right[i].values.data(), left[i].values.size() * sizeof(float)))
        << left[i].name;
  }
}

TEST(TorchModel, PredictionsOfARowDoNotDependOnTheBatch) {
  ModelSpec spec = MakeSpec("mmoe");
  spec.x_dim = 150;
  spec.model.expert_mlp.hidden_units = {256, 128};
  const auto model = NewModel(spec);
  const Batch batch = MakeBatch(spec, 10000, 9);
  std::vector<float> all(20000);
  ASSERT_TRUE(model->Predict(batch.rows, batch.x, all).ok());
  for (const std::size_t row : {0U, 1U, 77U, 4095U, 4096U, 5000U, 8191U, 9999U}) {
    std::vector<float> one(2);
    ASSERT_TRUE(model->Predict(1, std::span(batch.x).subspan(row * 150, 150), one).ok());
    EXPECT_EQ(one[0], all[row]) << row;
    EXPECT_EQ(one[1], all[10000 + row]) << row;
  }
}

// ---- data parallel ----------------------------------------------------------------------------------------------------

Batch Slice(const ModelSpec& spec, const Batch& batch, std::int64_t first, std::int64_t rows) {
  Batch part{.rows = rows, .x = {}, .labels = {}, .weights = {}, .samples = {}, .weight_sums = batch.weight_sums};
  part.x.assign(batch.x.begin() + first * spec.x_dim, batch.x.begin() + (first + rows) * spec.x_dim);
  for (std::size_t t = 0; t < spec.tasks.size(); ++t) {
    const auto begin = batch.labels.begin() + static_cast<std::int64_t>(t) * batch.rows + first;
    part.labels.insert(part.labels.end(), begin, begin + rows);
  }
  part.weights.assign(batch.weights.begin() + first, batch.weights.begin() + first + rows);
  part.samples.assign(batch.samples.begin() + first, batch.samples.begin() + first + rows);
  return part;
}

TEST(TorchModel, ThreeWorkersOneOfThemEmptyAgreeWithOne) {
  ModelSpec spec = MakeSpec("mmoe");
  spec.model.expert_mlp = {.hidden_units = {20, 12}, .activation = "relu", .dropout_ratio = {0.2}, .use_bn = true};
  spec.model.gate_mlp = MlpConfig{.hidden_units = {8}, .activation = "relu", .dropout_ratio = {0.1}};
  spec.optimizer.type = "sgd";  // Adam's first steps amplify rounding
  spec.optimizer.lr = 0.1;
  const std::vector<std::int64_t> shares = {40, 0, 24};
  const int kSteps = 5;
  const auto alone = NewModel(spec);
  std::vector<std::vector<double>> losses;
  for (int step = 0; step < kSteps; ++step) {
    losses.push_back(RunStep(spec, alone.get(), MakeBatch(spec, 64, static_cast<std::uint64_t>(step)), static_cast<std::uint64_t>(step)).losses);
    ASSERT_TRUE(alone->Update(static_cast<std::uint64_t>(step)).ok());
  }
  auto collectives = collective::NewThreadCollectives(3, {});
  std::vector<std::vector<DenseModel::Tensor>> saved(3);
  std::vector<std::vector<double>> sums(kSteps, std::vector<double>(2));
  const auto worker = [&](std::size_t rank) {
    ModelSpec mine = spec;
    mine.threads = 1;
    mine.workers = collectives[rank].get();
    const auto model = NewModel(mine);
    const std::int64_t first = rank == 2 ? 40 : 0;
    for (int step = 0; step < kSteps; ++step) {
      const auto number = static_cast<std::uint64_t>(step);
      const Batch part = Slice(spec, MakeBatch(spec, 64, number), first, shares[rank]);
      StepResult result = RunStep(mine, model.get(), part, number);
      EXPECT_TRUE(mine.workers->AllReduceSum(std::span<double>(result.losses)).ok());
      EXPECT_TRUE(mine.workers->AllReduceSum(model->gradient()).ok());
      EXPECT_TRUE(model->Update(number).ok());
      if (rank == 0) sums[static_cast<std::size_t>(step)] = result.losses;
    }
    saved[rank] = model->Save();
  };
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < 3; ++rank) threads.emplace_back(worker, rank);
  for (std::thread& thread : threads) thread.join();
  const auto expected = alone->Save();
  for (std::size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(saved[0][i].values, saved[1][i].values) << expected[i].name;
    for (std::size_t j = 0; j < expected[i].values.size(); ++j) {
      ASSERT_NEAR(saved[2][i].values[j], expected[i].values[j], 1e-5) << expected[i].name;
    }
  }
  for (std::size_t step = 0; step < sums.size(); ++step) {
    for (std::size_t t = 0; t < 2; ++t) EXPECT_NEAR(sums[step][t], losses[step][t], 1e-5);
  }
}

TEST(TorchModel, NoRowsLeaveNoGradient) {
  for (const bool use_bn : {false, true}) {
    ModelSpec spec = MakeSpec("mmoe");
    spec.model.expert_mlp.use_bn = use_bn;
    const auto model = NewModel(spec);
    RunStep(spec, model.get(), MakeBatch(spec, 32, 1), 0);
    Batch empty = MakeBatch(spec, 0, 1);
    empty.weight_sums = {10.0, 10.0};
    const StepResult result = RunStep(spec, model.get(), empty, 1);
    EXPECT_EQ(result.losses, std::vector<double>(2, 0.0));
    for (const float g : model->gradient()) ASSERT_EQ(g, 0.0F);
  }
}

TEST(TorchModel, ABatchOfOneSampleTrainsWithBatchNorm) {
  ModelSpec spec = MakeSpec("mmoe");
  spec.model.expert_mlp.use_bn = true;
  const auto model = NewModel(spec);
  const StepResult result = RunStep(spec, model.get(), MakeBatch(spec, 1, 1), 0);
  ASSERT_TRUE(model->Update(0).ok());
  EXPECT_TRUE(std::isfinite(result.losses[0]));
  for (const auto& tensor : model->Save()) {
    for (const float value : tensor.values) ASSERT_TRUE(std::isfinite(value)) << tensor.name;
    if (tensor.name.ends_with("running_var")) {
      EXPECT_EQ(tensor.values[0], 1.0F);  // one sample has no variance
    }
  }
}

TEST(TorchModel, RunningStatisticsArePyTorchsAndServePredictions) {
  ModelSpec spec = MakeSpec("shared_bottom");
  spec.model.bottom_mlp = MlpConfig{.hidden_units = {6}, .activation = "linear", .dropout_ratio = {}, .use_bn = true};
  spec.model.tower_mlp.hidden_units = {};
  const auto model = NewModel(spec);
  const Batch batch = MakeBatch(spec, 50, 2);
  std::map<std::string, at::Tensor> t;
  for (const auto& tensor : model->Save()) {
    t[tensor.name] = at::from_blob(const_cast<float*>(tensor.values.data()), tensor.shape, at::kFloat).clone();
  }
  RunStep(spec, model.get(), batch, 0);
  const at::Tensor x = at::from_blob(const_cast<float*>(batch.x.data()), {50, spec.x_dim}, at::kFloat);
  const at::Tensor z = at::linear(x, t["bottom.0.weight"], t["bottom.0.bias"]);
  const at::Tensor mean = t["bottom.0.running_mean"];
  const at::Tensor var = t["bottom.0.running_var"];
  at::batch_norm(z, t["bottom.0.bn_weight"], t["bottom.0.bn_bias"], mean, var, true, 0.1, 1e-5, false);
  for (const auto& tensor : model->Save()) {
    if (tensor.name != "bottom.0.running_mean" && tensor.name != "bottom.0.running_var") continue;
    const at::Tensor expected = tensor.name.ends_with("mean") ? mean : var;
    for (std::int64_t i = 0; i < 6; ++i) {
      EXPECT_NEAR(tensor.values[static_cast<std::size_t>(i)], expected[i].item<float>(), 1e-5) << tensor.name;
    }
  }
  const at::Tensor y = at::batch_norm(z, t["bottom.0.bn_weight"], t["bottom.0.bn_bias"], mean, var, false, 0.1, 1e-5, false);
  const at::Tensor score = at::sigmoid(at::linear(y, t["towers.click.out.weight"], t["towers.click.out.bias"]));
  std::vector<float> scores(100);
  ASSERT_TRUE(model->Predict(50, batch.x, scores).ok());
  for (std::int64_t i = 0; i < 50; ++i) EXPECT_NEAR(scores[static_cast<std::size_t>(i)], score[i][0].item<float>(), 1e-5);
}

// ---- saving, watching, failing ---------------------------------------------------------------------------------------

TEST(TorchModel, SavedAndLoadedModelContinuesWithTheSameBits) {
  for (const char* optimizer : {"adam", "adamw", "adagrad", "sgd"}) {
    ModelSpec spec = MakeSpec("mmoe");
    spec.optimizer.type = optimizer;
    spec.optimizer.momentum = 0.9;
    spec.model.expert_mlp.use_bn = true;
    const auto first = NewModel(spec);
    for (std::uint64_t step = 0; step < 3; ++step) {
      RunStep(spec, first.get(), MakeBatch(spec, 40, step), step);
      ASSERT_TRUE(first->Update(step).ok());
    }
    ModelSpec other = spec;
    other.seed = 99;
    const auto second = NewModel(other);
    ASSERT_TRUE(second->Load(first->Save(), true).ok());
    for (DenseModel* model : {first.get(), second.get()}) {
      RunStep(spec, model, MakeBatch(spec, 40, 3), 3);
      ASSERT_TRUE(model->Update(3).ok());
    }
    const auto left = first->Save();
    const auto right = second->Save();
    for (std::size_t i = 0; i < left.size(); ++i) ASSERT_EQ(left[i].values, right[i].values) << optimizer << left[i].name;
  }
}

TEST(TorchModel, LoadListsWhatDoesNotFit) {
  const auto model = NewModel(MakeSpec("mmoe"));
  auto tensors = model->Save();
  tensors[0].shape = {1, 2};
  tensors[0].values.resize(2);
  tensors[1].name = "experts.9.0.bias";
  const Status status = model->Load(tensors, true);
  EXPECT_EQ(status.code(), Code::kInvalidInput);
  EXPECT_NE(status.message().find("of another shape: experts.0.0.weight"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("missing: experts.0.0.bias"), std::string::npos);
  EXPECT_NE(status.message().find("left over: experts.9.0.bias"), std::string::npos);
  // Without the optimizer, its state may be missing.
  auto parameters = model->Save();
  std::erase_if(parameters, [](const auto& tensor) { return tensor.name.starts_with("optimizer/"); });
  EXPECT_TRUE(model->Load(parameters, false).ok());
  EXPECT_FALSE(model->Load(parameters, true).ok());
}

TEST(TorchModel, GateMeansAreDistributionsPerTask) {
  for (const char* type : {"mmoe", "omoe", "ple"}) {
    const ModelSpec spec = MakeSpec(type);
    const auto model = NewModel(spec);
    RunStep(spec, model.get(), MakeBatch(spec, 100, 1), 0);
    const auto means = model->gate_means();
    ASSERT_EQ(means.size(), 2U);
    for (const auto& task : means) {
      ASSERT_EQ(task.size(), std::string(type) == "ple" ? 5U : 3U);
      EXPECT_NEAR(std::accumulate(task.begin(), task.end(), 0.0), 1.0, 1e-5);
    }
    EXPECT_EQ(means[0] == means[1], std::string(type) == "omoe");
  }
  EXPECT_TRUE(NewModel(MakeSpec("single"))->gate_means().empty());
}

TEST(TorchModel, ATaskOfEsmmPredictsTheProductOfTheProbabilitiesUpToIt) {
  ModelSpec spec = MakeSpec("esmm");
  const auto chained = NewModel(spec);
  spec.model.type = "single";
  const auto single = NewModel(spec);
  const Batch batch = MakeBatch(spec, 20, 2);
  std::vector<float> products(40);
  std::vector<float> own(40);
  ASSERT_TRUE(chained->Predict(20, batch.x, products).ok());
  ASSERT_TRUE(single->Predict(20, batch.x, own).ok());
  for (std::size_t i = 0; i < 20; ++i) {
    EXPECT_FLOAT_EQ(products[i], own[i]);
    EXPECT_NEAR(products[20 + i], own[i] * own[20 + i], 1e-6);
  }
}

TEST(TorchModel, NormsThatPredictionsUseMoveInTraining) {
  ModelSpec spec = MakeSpec("mmoe");
  spec.model.gate_bn = true;
  spec.model.expert_mlp.activation = "dice";
  const auto model = NewModel(spec);
  const auto before = model->Save();
  RunStep(spec, model.get(), MakeBatch(spec, 50, 1), 0);
  const auto after = model->Save();
  int moved = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const std::string& name = before[i].name;
    const bool statistic = name.ends_with("dice_mean") || name.ends_with("dice_var") || name.ends_with("running_mean") ||
                           name.ends_with("running_var");
    EXPECT_EQ(before[i].values != after[i].values, statistic) << name;
    moved += statistic ? 1 : 0;
  }
  EXPECT_EQ(moved, 3 * 2 * 2 + 2 * 2);  // experts' layers, gates
}

TEST(TorchModel, NanInTheInputReachesTheLoss) {
  ModelSpec spec = MakeSpec("mmoe");
  spec.x_dim = 150;
  spec.model.expert_mlp.hidden_units = {256, 128};
  Batch batch = MakeBatch(spec, 256, 1);
  batch.x[5] = std::nanf("");
  const auto model = NewModel(spec);
  EXPECT_TRUE(std::isnan(RunStep(spec, model.get(), batch, 0).losses[0]));
}

TEST(TorchModel, WrongSizesAreRefused) {
  const ModelSpec spec = MakeSpec("mmoe");
  const auto model = NewModel(spec);
  Batch batch = MakeBatch(spec, 8, 1);
  batch.labels.pop_back();
  std::vector<float> grad_x(batch.x.size());
  std::vector<double> losses(2);
  EXPECT_FALSE(model->ForwardBackward(batch.Input(0), grad_x, losses).ok());
  EXPECT_FALSE(model->Predict(9, batch.x, grad_x).ok());
  EXPECT_EQ(model->AllReduceOnDevice().code(), Code::kInvalidInput);
}

TEST(TorchModel, ProductsAreTimedForRowsThatThereAre) {
  ModelSpec spec = MakeSpec("mmoe");
  spec.x_dim = 64;
  const auto milliseconds = TimeTorchProducts(spec, 32, 3);
  ASSERT_TRUE(milliseconds.ok()) << milliseconds.status().message();
  EXPECT_GT(*milliseconds, 0.0);
  EXPECT_FALSE(TimeTorchProducts(spec, 0, 3).ok());
}

TEST(TorchModel, CudaAgreesWithTheCpu) {
  ModelSpec spec = MakeSpec("mmoe");
  spec.model.expert_mlp = {.hidden_units = {20, 12}, .activation = "relu", .dropout_ratio = {0.2}, .use_bn = true};
  ModelSpec on_cuda = spec;
  on_cuda.device = "cuda";
  if (!CudaDevices().cuda_usable) {
    const auto refused = NewTorchModel(on_cuda);
    EXPECT_EQ(refused.status().code(), Code::kUnavailable);
    GTEST_SKIP() << "no GPU: " << CudaDevices().description;
  }
  const auto cpu = NewModel(spec);
  const auto cuda = NewModel(on_cuda);
  for (std::uint64_t step = 0; step < 5; ++step) {
    const Batch batch = MakeBatch(spec, 64, step);
    const StepResult expected = RunStep(spec, cpu.get(), batch, step);
    const StepResult result = RunStep(spec, cuda.get(), batch, step);
    for (std::size_t i = 0; i < result.grad_x.size(); ++i) ASSERT_NEAR(result.grad_x[i], expected.grad_x[i], 1e-4);
    ASSERT_TRUE(cpu->Update(step).ok());
    ASSERT_TRUE(cuda->Update(step).ok());
  }
}

}  // namespace
}  // namespace gatemill::model
