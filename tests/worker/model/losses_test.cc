#include "worker/model/losses.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace gatemill::model {
namespace {

TaskConfig Task(std::vector<LossConfig> losses, const std::string& label_transform = "none") {
  TaskConfig task;
  task.name = "t";
  task.loss = std::move(losses);
  task.label_transform = label_transform;
  return task;
}

double P(double z) { return 1.0 / (1.0 + std::exp(-z)); }

TEST(Losses, ValuesAreTheFormulas) {
  const double z = 0.7;
  const double p = P(z);
  EXPECT_NEAR(LossOf(Task({{.type = "bce"}}), z, 1).loss, -std::log(p), 1e-12);
  EXPECT_NEAR(LossOf(Task({{.type = "bce"}}), z, 0).loss, -std::log(1 - p), 1e-12);
  EXPECT_NEAR(LossOf(Task({{.type = "bce", .label_smoothing = 0.2}}), z, 1).loss, -0.9 * std::log(p) - 0.1 * std::log(1 - p), 1e-12);
  const LossConfig focal{.type = "focal", .gamma = 1.5, .alpha = 0.25};
  EXPECT_NEAR(LossOf(Task({focal}), z, 1).loss, -0.25 * std::pow(1 - p, 1.5) * std::log(p), 1e-12);
  EXPECT_NEAR(LossOf(Task({focal}), z, 0).loss, -0.75 * std::pow(p, 1.5) * std::log(1 - p), 1e-12);
  EXPECT_NEAR(LossOf(Task({{.type = "focal", .gamma = 0, .alpha = 0.5}}), z, 1).loss, 0.5 * LossOf(Task({{.type = "bce"}}), z, 1).loss, 1e-12);
  EXPECT_NEAR(LossOf(Task({{.type = "mse"}}), z, 3).loss, 2.3 * 2.3, 1e-12);
  EXPECT_NEAR(LossOf(Task({{.type = "mae"}}), z, 3).loss, 2.3, 1e-12);
  EXPECT_NEAR(LossOf(Task({{.type = "huber", .delta = 2}}), z, 3).loss, 2 * (2.3 - 1), 1e-12);
  EXPECT_NEAR(LossOf(Task({{.type = "huber", .delta = 3}}), z, 3).loss, 0.5 * 2.3 * 2.3, 1e-12);
  EXPECT_NEAR(LossOf(Task({{.type = "mse"}}, "log1p"), z, 3).loss, std::pow(z - std::log(4.0), 2), 1e-12);
  EXPECT_NEAR(LossOf(Task({{.type = "watch_time"}}), z, 5).loss, -5 * std::log(p), 1e-12);
  EXPECT_NEAR(LossOf(Task({{.type = "watch_time"}}), z, 0).loss, -std::log(1 - p), 1e-12);
  EXPECT_NEAR(LossOf(Task({{.type = "mse"}, {.type = "mae", .weight = 0.5}}), z, 3).loss, 2.3 * 2.3 + 0.5 * 2.3, 1e-12);
}

TEST(Losses, DerivativesAreThoseOfTheLosses) {
  const std::vector<TaskConfig> tasks = {
      Task({{.type = "bce", .label_smoothing = 0.1}}), Task({{.type = "focal", .gamma = 2.5, .alpha = 0.3}}),
      Task({{.type = "focal", .label_smoothing = 0.2, .gamma = 0.5}}), Task({{.type = "mse"}}), Task({{.type = "mae"}}),
      Task({{.type = "huber", .delta = 0.7}}), Task({{.type = "watch_time"}}), Task({{.type = "mse"}, {.type = "huber", .weight = 2}}, "log1p"),
      Task({{.type = "bce"}, {.type = "focal", .weight = 3}})};
  for (const TaskConfig& task : tasks) {
    for (const double label : {0.0, 1.0}) {
      for (const double z : {-6.0, -1.3, 0.2, 2.4, 7.0}) {
        constexpr double kStep = 1e-5;
        const double numeric = (LossOf(task, z + kStep, label).loss - LossOf(task, z - kStep, label).loss) / (2 * kStep);
        EXPECT_NEAR(LossOf(task, z, label).derivative, numeric, 1e-6) << task.loss[0].type << " " << z << " " << label;
      }
    }
  }
}

TEST(Losses, NothingOverflows) {
  for (const char* type : {"bce", "focal", "watch_time"}) {
    for (const double label : {0.0, 1.0}) {
      for (const double z : {-800.0, 800.0}) {
        const SampleLoss loss = LossOf(Task({{.type = type}}), z, label);
        EXPECT_TRUE(std::isfinite(loss.loss) && std::isfinite(loss.derivative)) << type << z << label;
        EXPECT_EQ(loss.loss > 1, (z > 0) != (label > 0)) << type << z << label;
      }
    }
  }
}

TEST(Losses, PredictionsAreInUnitsOfTheLabelAndOutputsTheirInverse) {
  EXPECT_NEAR(PredictionOf(Task({{.type = "focal"}}), 0.3), P(0.3), 1e-12);
  EXPECT_NEAR(PredictionOf(Task({{.type = "mae"}}), 0.3), 0.3, 1e-12);
  EXPECT_NEAR(PredictionOf(Task({{.type = "huber"}}, "log1p"), 0.3), std::expm1(0.3), 1e-12);
  EXPECT_NEAR(PredictionOf(Task({{.type = "watch_time"}}), 0.3), std::exp(0.3), 1e-12);
  for (const TaskConfig& task : {Task({{.type = "bce"}}), Task({{.type = "mse"}}), Task({{.type = "mse"}}, "log1p"), Task({{.type = "watch_time"}})}) {
    EXPECT_NEAR(OutputOf(task, PredictionOf(task, 1.7)), 1.7, 1e-9);
  }
  EXPECT_TRUE(std::isfinite(OutputOf(Task({{.type = "bce"}}), 1.0)));
  EXPECT_TRUE(std::isfinite(OutputOf(Task({{.type = "watch_time"}}), 0.0)));
}

// The constant that minimizes a weighted logistic loss has odds of the mean watch time (over the samples without any).
TEST(Losses, WatchTimeLearnsTheExpectedTime) {
  const std::vector<double> labels = {0, 0, 0, 0, 0, 0, 0, 30, 60, 0};
  const TaskConfig task = Task({{.type = "watch_time"}});
  double z = 0;
  for (int step = 0; step < 2000; ++step) {
    double derivative = 0;
    for (const double label : labels) derivative += LossOf(task, z, label).derivative;
    z -= 0.02 * derivative;
  }
  EXPECT_NEAR(PredictionOf(task, z), 90.0 / 8, 0.01);
}

struct Outcome {
  std::vector<double> losses;
  std::vector<std::vector<float>> gradients;
};
Outcome RunLosses(const std::vector<TaskConfig>& tasks, bool chained, const std::vector<std::vector<float>>& z, const std::vector<float>& labels,
           const std::vector<float>& weights, const std::vector<float>& task_weights, const std::vector<double>& sums) {
  Outcome result{.losses = std::vector<double>(tasks.size()), .gradients = {}};
  TaskOutputs outputs{.tasks = tasks, .chained = chained, .rows = static_cast<std::int64_t>(z[0].size()), .z = {}};
  std::vector<float*> to;
  for (const auto& of_task : z) {
    outputs.z.push_back(of_task.data());
    result.gradients.emplace_back(of_task.size());
  }
  for (auto& gradient : result.gradients) to.push_back(gradient.data());
  const StepInput input{.rows = outputs.rows, .x = {}, .labels = labels, .weights = weights, .task_weights = task_weights, .samples = {},
                        .weight_sums = sums};
  LossesAndGradients(outputs, input, to, result.losses);
  return result;
}

TEST(Losses, WeightsOfSamplesAndTasksAndTheirSums) {
  std::vector<TaskConfig> tasks = {Task({{.type = "mse"}}), Task({{.type = "mse"}})};
  tasks[1].weight = 10;
  const Outcome result = RunLosses(tasks, false, {{1, 2, 3}, {1, 2, 3}}, {0, 0, 0, 0, 0, 0}, {1, 2, 0.5}, {1, 1, 1, 0, 1, 2}, {3.5, 3});
  EXPECT_NEAR(result.losses[0], (1 * 1 + 2 * 4 + 0.5 * 9) / 3.5, 1e-12);
  EXPECT_NEAR(result.losses[1], (0 + 2 * 4 + 0.5 * 2 * 9) / 3, 1e-12) << "the task's weight comes afterwards";
  EXPECT_NEAR(result.gradients[0][1], 2 * 4 / 3.5, 1e-6);
  EXPECT_EQ(result.gradients[1][0], 0.0F) << "out of the task's space";
  EXPECT_NEAR(result.gradients[1][2], 10 * 0.5 * 2 * 6 / 3.0, 1e-5);
  const Outcome nothing = RunLosses(tasks, false, {{1}, {1}}, {0, 0}, {}, {}, {0, 1});
  EXPECT_EQ(nothing.losses[0], 0.0);
  EXPECT_EQ(nothing.gradients[0][0], 0.0F);
}

TEST(Losses, AChainIsTheProductOfItsProbabilities) {
  const std::vector<TaskConfig> tasks = {Task({{.type = "bce"}}), Task({{.type = "bce", .label_smoothing = 0.1}}), Task({{.type = "bce"}})};
  const std::vector<float> labels = {1, 1, 0};
  const auto total = [&](const std::vector<double>& z) {
    const double p0 = P(z[0]);
    const double p1 = p0 * P(z[1]);
    const double p2 = p1 * P(z[2]);
    return -std::log(p0) - 0.95 * std::log(p1) - 0.05 * std::log(1 - p1) - std::log(1 - p2);
  };
  const std::vector<double> z = {0.4, -0.8, 1.1};
  const Outcome result = RunLosses(tasks, true, {{0.4F}, {-0.8F}, {1.1F}}, labels, {}, {}, {1, 1, 1});
  EXPECT_NEAR(result.losses[0] + result.losses[1] + result.losses[2], total(z), 1e-6);
  for (std::size_t t = 0; t < 3; ++t) {
    auto up = z;
    auto down = z;
    up[t] += 1e-5;
    down[t] -= 1e-5;
    EXPECT_NEAR(result.gradients[t][0], (total(up) - total(down)) / 2e-5, 1e-5) << t;
  }
}

}  // namespace
}  // namespace gatemill::model
