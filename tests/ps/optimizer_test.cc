#include "ps/table/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "common/random.h"
#include "tests/ps/one_row.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 7;
constexpr int kSteps = 50;

SparseOptimizerConfig Config(const std::string& type) {
  SparseOptimizerConfig config;
  config.type = type;
  config.lr = 0.05;
  config.eps = type == "adam" ? 1e-8 : 1e-10;
  config.initial_accumulator = 0.1;
  config.l1 = 0.02;
  config.l2 = 0.03;
  return config;
}

// The formulas in double precision, written from their sources, one coordinate or row at a time.
struct Reference {
  SparseOptimizerConfig config;
  std::vector<double> w;
  std::vector<double> a;  // accumulator, first moment or z
  std::vector<double> b;  // second moment or n

  Reference(SparseOptimizerConfig optimizer, const std::vector<float>& row)
      : config(std::move(optimizer)), w(row.begin(), row.end()), a(row.size()), b(row.size()) {
    const double initial = config.initial_accumulator;
    if (config.type == "adagrad" || config.type == "rowwise_adagrad") a.assign(row.size(), initial);
    if (config.type == "ftrl") b.assign(row.size(), initial);
  }

  void Step(const std::vector<float>& grad, int t) {
    double mean_square = 0;
    for (const float g : grad) mean_square += static_cast<double>(g) * g / static_cast<double>(grad.size());
    for (std::size_t i = 0; i < w.size(); ++i) Coordinate(i, grad[i], mean_square, t);
  }

  void Coordinate(std::size_t i, double g, double mean_square, int t) {
    if (config.type == "sgd") {
      w[i] -= config.lr * g;
    } else if (config.type == "adagrad") {
      a[i] += g * g;
      w[i] -= config.lr * g / (std::sqrt(a[i]) + config.eps);
    } else if (config.type == "rowwise_adagrad") {
      a[i] += mean_square;
      w[i] -= config.lr * g / (std::sqrt(a[i]) + config.eps);
    } else if (config.type == "adam") {
      a[i] = config.beta1 * a[i] + (1 - config.beta1) * g;
      b[i] = config.beta2 * b[i] + (1 - config.beta2) * g * g;
      const double mean = a[i] / (1 - std::pow(config.beta1, t));
      const double variance = b[i] / (1 - std::pow(config.beta2, t));
      w[i] -= config.lr * mean / (std::sqrt(variance) + config.eps);
    } else {
      const double sigma = (std::sqrt(b[i] + g * g) - std::sqrt(b[i])) / config.lr;
      a[i] += g - sigma * w[i];
      b[i] += g * g;
      const double sign = a[i] < 0 ? -1 : 1;
      w[i] = std::fabs(a[i]) <= config.l1
                 ? 0
                 : -(a[i] - sign * config.l1) / ((config.beta + std::sqrt(b[i])) / config.lr + config.l2);
    }
  }
};

class OptimizerFormulas : public testing::TestWithParam<std::string> {};

TEST_P(OptimizerFormulas, FollowTheDoublePrecisionReference) {
  const SparseOptimizerConfig config = Config(GetParam());
  auto optimizer = NewSparseOptimizer(config);
  ASSERT_TRUE(optimizer.ok()) << optimizer.status().message();
  for (const int dim : {1, 4, 16, 17, 40}) {
    RandomStream random(kSeed, static_cast<std::uint64_t>(dim));
    std::vector<float> row;
    for (int i = 0; i < dim; ++i) row.push_back(static_cast<float>(random.Uniform() - 0.5));
    Reference reference(config, row);
    std::vector<float> values = row;  // embedding and state
    values.resize(row.size() + static_cast<std::size_t>((*optimizer)->state_dim(dim)), -1.0F);
    (*optimizer)->InitState(std::span(values).subspan(row.size()), dim);
    for (int step = 0; step < kSteps; ++step) {
      std::vector<float> grad;
      for (int i = 0; i < dim; ++i) grad.push_back(static_cast<float>(random.Uniform() * 2 - 1));
      ApplyToRow(**optimizer, values, grad, static_cast<std::uint64_t>(step));
      reference.Step(grad, step + 1);
      for (std::size_t i = 0; i < row.size(); ++i) {
        ASSERT_NEAR(values[i], reference.w[i], 2e-5) << GetParam() << " dim " << dim << " step " << step << " at " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, OptimizerFormulas, testing::Values("sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"),
                         [](const auto& test) { return test.param; });

TEST(Optimizer, StateSizesAreAsDocumented) {
  const std::vector<std::pair<std::string, int>> expected = {
      {"sgd", 0}, {"adagrad", 16}, {"rowwise_adagrad", 1}, {"adam", 32}, {"ftrl", 32}};
  for (const auto& [type, floats] : expected) {
    auto optimizer = NewSparseOptimizer(Config(type));
    ASSERT_TRUE(optimizer.ok());
    EXPECT_EQ((*optimizer)->state_dim(16), floats) << type;
  }
}

// A row first seen at a late step: Adam corrects by the global step, not by the row's own count.
TEST(Optimizer, AdamCountsGlobalSteps) {
  auto optimizer = NewSparseOptimizer(Config("adam"));
  ASSERT_TRUE(optimizer.ok());
  constexpr std::uint64_t kStep = 999;
  std::vector<float> values = {0.0F, 0.0F, 0.0F};
  const float grad = 0.5F;
  ApplyToRow(**optimizer, values, {&grad, 1}, kStep);
  const double correction1 = 1 - std::pow(0.9, kStep + 1);
  const double correction2 = 1 - std::pow(0.999, kStep + 1);
  const double expected = -0.05 * (0.1 * 0.5 / correction1) / (std::sqrt(0.001 * 0.25 / correction2) + 1e-8);
  EXPECT_NEAR(values[0], expected, 1e-6);
}

TEST(Optimizer, FtrlHoldsSmallWeightsAtZero) {
  SparseOptimizerConfig config = Config("ftrl");
  config.l1 = 10.0;
  auto optimizer = NewSparseOptimizer(config);
  ASSERT_TRUE(optimizer.ok());
  std::vector<float> values(6, 0.0F);
  (*optimizer)->InitState(std::span(values).subspan(2), 2);
  const float grad[2] = {9.0F, 11.0F};
  ApplyToRow(**optimizer, values, grad, 0);
  EXPECT_EQ(values[0], 0.0F);
  EXPECT_LT(values[1], 0.0F);
}

TEST_P(OptimizerFormulas, AnEmbeddingThatWasLearnedStaysWithoutAGradient) {
  SparseOptimizerConfig config = Config(GetParam());
  config.l1 = 0.01;
  config.l2 = 0.1;
  auto optimizer = NewSparseOptimizer(config);
  ASSERT_TRUE(optimizer.ok()) << optimizer.status().message();
  const std::vector<float> learned{0.7F, -0.2F, 0.0F, 3.0F};
  std::vector<float> values = learned;
  values.resize(learned.size() + static_cast<std::size_t>((*optimizer)->state_dim(4)), -1.0F);
  (*optimizer)->InitStateOf(learned, std::span(values).subspan(learned.size()));
  ApplyToRow(**optimizer, values, std::vector<float>(4, 0.0F), 0);
  for (std::size_t i = 0; i < learned.size(); ++i) EXPECT_NEAR(values[i], learned[i], 1e-6) << GetParam() << " at " << i;
}

TEST(Optimizer, RefusesWhatItCannotDo) {
  const auto code = [](const SparseOptimizerConfig& config) { return NewSparseOptimizer(config).status().code(); };
  EXPECT_EQ(code(Config("adamax")), Code::kInvalidInput);
  SparseOptimizerConfig config = Config("sgd");
  config.lr = 0.0;
  EXPECT_EQ(code(config), Code::kInvalidInput);
  config = Config("adam");
  config.beta2 = 1.0;
  EXPECT_EQ(code(config), Code::kInvalidInput);
  config = Config("adagrad");
  config.initial_accumulator = -1.0;
  EXPECT_EQ(code(config), Code::kInvalidInput);
  config = Config("ftrl");
  config.l1 = std::nan("");
  EXPECT_EQ(code(config), Code::kInvalidInput);
}

}  // namespace
}  // namespace gatemill::ps
