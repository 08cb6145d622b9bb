#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/random.h"
#include "worker/model/dense_model.h"

namespace gatemill::model {
namespace {

ModelSpec Spec(const std::string& type) {
  ModelSpec spec;
  spec.x_dim = 6;
  spec.model.type = std::string(type);
  spec.model.expert_mlp = {.hidden_units = {16, 8}, .activation = "relu", .dropout_ratio = {0.1}, .use_bn = true};
  spec.model.gate_mlp = MlpConfig{.hidden_units = {4}, .activation = "relu", .dropout_ratio = {}};
  spec.tasks.resize(2);
  spec.tasks[0].name = std::string("a");
  spec.tasks[1].name = std::string("b");
  spec.optimizer.lr = 0.02;
  return spec;
}

TEST(LoadLibrary, DescribedParametersAreTheModels) {
  const auto library = LoadModelLibrary();
  ASSERT_TRUE(library.ok()) << library.status().message();
  EXPECT_FALSE((*library)->version().empty());
  for (const char* type : {"single", "shared_bottom", "omoe", "mmoe"}) {
    const ModelSpec spec = Spec(type);
    const auto model = (*library)->NewDenseModel(spec);
    ASSERT_TRUE(model.ok()) << model.status().message();
    const auto described = DescribeParameters(spec);
    const auto actual = (*model)->parameters();
    const auto saved = (*model)->Save();
    ASSERT_EQ(described.size(), actual.size());
    ASSERT_FALSE(described.empty());
    for (std::size_t i = 0; i < described.size(); ++i) {
      EXPECT_EQ(described[i].name, actual[i].name);
      EXPECT_EQ(described[i].shape, actual[i].shape);
      EXPECT_EQ(described[i].name, saved[i].name);
      EXPECT_EQ(described[i].shape, saved[i].shape);
    }
  }
}

// In a process of its own: the library is opened once.
void OpenAndSaySpinCount(const LibraryOptions& options, const char* set_before) {
  unsetenv("GOMP_SPINCOUNT");
  if (set_before != nullptr) setenv("GOMP_SPINCOUNT", set_before, 1);
  const bool opened = LoadModelLibrary(options).ok();
  std::fprintf(stderr, "spin %s", opened ? std::getenv("GOMP_SPINCOUNT") : "none");
  std::_Exit(0);
}

TEST(LoadLibraryDeathTest, ThreadsThatWaitSleepWhereCoresAreShared) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(OpenAndSaySpinCount({}, nullptr), testing::ExitedWithCode(0), "spin 10000");
  EXPECT_EXIT(OpenAndSaySpinCount({.cores_are_shared = true}, nullptr), testing::ExitedWithCode(0), "spin 0");
  EXPECT_EXIT(OpenAndSaySpinCount({.cores_are_shared = true}, "7"), testing::ExitedWithCode(0), "spin 7");
}

TEST(LoadLibrary, AModelLearnsThroughTheLibrary) {
  const auto library = LoadModelLibrary();
  ASSERT_TRUE(library.ok()) << library.status().message();
  const ModelSpec spec = Spec("mmoe");
  const auto model = (*library)->NewDenseModel(spec);
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_NE((*model)->device_name().find("cpu"), std::string::npos);
  constexpr std::size_t kRows = 128;
  std::vector<double> first(2);
  std::vector<double> losses(2);
  for (std::uint64_t step = 0; step < 100; ++step) {
    RandomStream random(1, step);
    std::vector<float> x(kRows * 6);
    std::vector<float> labels(2 * kRows);
    std::vector<std::uint64_t> samples(kRows);
    for (std::size_t i = 0; i < kRows; ++i) {
      for (std::size_t c = 0; c < 6; ++c) x[i * 6 + c] = static_cast<float>(random.Normal());
      labels[i] = x[i * 6] * x[i * 6 + 1] > 0 ? 1.0F : 0.0F;
      labels[kRows + i] = x[i * 6 + 2] > 0 ? 1.0F : 0.0F;
      samples[i] = step * kRows + i;
    }
    std::vector<float> grad_x(x.size());
    const std::vector<double> sums(2, kRows);
    const StepInput input{.step = step, .rows = kRows, .x = x, .labels = labels, .weights = {}, .samples = samples,
                          .weight_sums = sums};
    ASSERT_TRUE((*model)->ForwardBackward(input, grad_x, losses).ok());
    EXPECT_GT((*model)->forward_ns(), 0);
    ASSERT_TRUE((*model)->Update(step).ok());
    if (step == 0) first = losses;
  }
  EXPECT_LT(losses[0], 0.7 * first[0]);
  EXPECT_LT(losses[1], 0.3 * first[1]);
}

TEST(LoadLibrary, DevicesAndMistakesAreReported) {
  const auto library = LoadModelLibrary();
  ASSERT_TRUE(library.ok()) << library.status().message();
  const DeviceReport devices = (*library)->Devices();
  EXPECT_EQ(devices.cuda_usable, devices.device_count > 0);
  EXPECT_FALSE(devices.description.empty());
  ModelSpec spec = Spec("mmoe");
  spec.model.num_expert = 0;
  EXPECT_EQ((*library)->NewDenseModel(spec).status().code(), Code::kInvalidInput);
  EXPECT_EQ((*library)->TimeProducts(spec, 10, 1).status().code(), Code::kInvalidInput);
}

}  // namespace
}  // namespace gatemill::model
