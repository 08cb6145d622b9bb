// Metrics over predictions, exact: every sample of every worker counts, none is sampled or binned.
//
//   auc      area under the ROC curve by ranks, ties at half (Mann and Whitney 1947); null with one class only
//   logloss  mean of -log p(label), p clipped to [1e-7, 1 - 1e-7]
//   rmse, mae  root of the mean squared, mean absolute difference
//
// Metrics count each sample once, whatever its weight in training. Sums run in double, in sample order, so that the
// number of workers does not change a digit. Thread safety: pure functions and values.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "worker/collective/collective.h"

namespace gatemill::train {

// Of one task. scores and labels: [n], all finite. None when a class is missing.
std::optional<double> Auc(std::span<const float> scores, std::span<const float> labels);
double LogLoss(std::span<const float> scores, std::span<const float> labels);
double Rmse(std::span<const float> scores, std::span<const float> labels);
double Mae(std::span<const float> scores, std::span<const float> labels);

// What a model said of the samples of a part, and what was true.
struct Predictions {
  std::vector<std::uint64_t> samples;     // [n] sample numbers
  std::vector<std::vector<float>> scores; // [tasks][n]
  std::vector<std::vector<float>> labels; // [tasks][n]; empty without labels
};

// Everyone's predictions, at everyone, ordered by sample number.
Result<Predictions> GatherPredictions(Predictions mine, collective::Collective* workers);

// metrics[TASK][METRIC]; null where a metric is undefined.
using MetricValues = std::map<std::string, std::optional<double>>;
using TaskMetrics = std::map<std::string, MetricValues>;
// The metrics each task asks for.
TaskMetrics ComputeMetrics(const std::vector<TaskConfig>& tasks, const Predictions& predictions);

// The value that early stopping watches: "TASK.METRIC", "mean(METRIC)" (over the tasks that have a value), or "loss"
// (the tasks' weighted logloss and mse, whatever metrics they list). None when nothing defined is left: such an epoch decides nothing.
std::optional<double> MonitorValue(const std::string& monitor, const std::vector<TaskConfig>& tasks,
                                   const Predictions& predictions, const TaskMetrics& metrics);
// Is a larger value of this monitor better? True for auc alone.
bool LargerIsBetter(const std::string& monitor);

}  // namespace gatemill::train
