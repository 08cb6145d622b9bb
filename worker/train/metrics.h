// Metrics over predictions, exact: every sample of every worker counts, none is sampled or binned.
//
//   auc      area under the ROC curve by ranks, ties at half (Mann and Whitney 1947); null with one class only
//   gauc     mean of the groups' auc, weighted by their samples (Zhu et al., KDD 2017); groups with one class are left out
//   logloss  mean of -log p(label), p clipped to [1e-7, 1 - 1e-7]
//   ne       logloss / entropy of the share of positives (He et al., ADKDD 2014); null with one class only
//   calibration  sum of predictions / sum of labels; null when the labels sum to 0 or less
//   calibration_error  mean over samples of |mean prediction - mean label| of their bucket, buckets of equally many samples by
//            prediction (Naeini et al., AAAI 2015; Nixon et al. 2019)
//   accuracy  share of samples with (prediction > 0.5) = label
//   rmse, mae  root of the mean squared, mean absolute difference
//   xauc     share of the pairs with different labels whose predictions are ordered as the labels, ties at half
//   recall   positives among the k highest predictions of a group / its positives; mean over groups with a positive
//   ndcg     DCG / the highest DCG of the labels, DCG = sum of max(label, 0) / log2(1 + rank) over ranks 1 to k in a group
//            (Järvelin and Kekäläinen 2002); mean over groups with a label above 0
//
// Metrics count each sample once, whatever its weight in training. Sums run in double, in an order that the samples alone
// decide, so that the number of workers does not change a digit; equal predictions are ranked in sample order.
// Thread safety: pure functions and values.
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

// Of one task. scores and labels: [n], all finite; groups: [n] keys, equal ones are of one group. None where it is undefined,
// without any sample too. Labels of Auc, GroupAuc, LogLoss, NormalizedEntropy, Accuracy and RecallAtK are 0 or 1.
std::optional<double> Auc(std::span<const float> scores, std::span<const float> labels);
std::optional<double> GroupAuc(std::span<const float> scores, std::span<const float> labels,
                               std::span<const std::uint64_t> groups);
std::optional<double> NormalizedEntropy(std::span<const float> scores, std::span<const float> labels);
std::optional<double> Calibration(std::span<const float> scores, std::span<const float> labels);
// O(n log n).
std::optional<double> Xauc(std::span<const float> scores, std::span<const float> labels);
// k: at least 1.
std::optional<double> RecallAtK(std::span<const float> scores, std::span<const float> labels,
                                std::span<const std::uint64_t> groups, int k);
std::optional<double> NdcgAtK(std::span<const float> scores, std::span<const float> labels,
                              std::span<const std::uint64_t> groups, int k);
// The same, n at least 1.
double LogLoss(std::span<const float> scores, std::span<const float> labels);
double Rmse(std::span<const float> scores, std::span<const float> labels);
double Mae(std::span<const float> scores, std::span<const float> labels);
double Accuracy(std::span<const float> scores, std::span<const float> labels);
// Bucket b of `buckets`, at least 1, has the samples from b * n / buckets on in order of their predictions.
double CalibrationError(std::span<const float> scores, std::span<const float> labels, int buckets);

// What a model said of the samples of a part, and what was true.
struct Predictions {
  std::vector<std::uint64_t> samples;     // [n] sample numbers
  std::vector<std::vector<float>> scores; // [tasks][n]
  std::vector<std::vector<float>> labels; // [tasks][n]; empty without labels
  std::map<std::string, std::vector<std::uint64_t>> groups;  // by column: [n] keys of its values; those that metrics ask for
};

// Everyone's predictions, at everyone, ordered by sample number. Workers have the same tasks and columns of groups.
Result<Predictions> GatherPredictions(Predictions mine, collective::Collective* workers);

// metrics[TASK][METRIC], METRIC as MetricNames says; null where a metric is undefined.
using MetricValues = std::map<std::string, std::optional<double>>;
using TaskMetrics = std::map<std::string, MetricValues>;
// The metrics each task asks for. `predictions` have the groups that these need.
TaskMetrics ComputeMetrics(const std::vector<TaskConfig>& tasks, const Predictions& predictions);

// The value that early stopping watches: "TASK.METRIC", "mean(METRIC)" (over the tasks that have a value), or "loss"
// (the tasks' weighted losses over all samples, each counted once, whatever metrics they list). None when nothing defined is left: such an epoch decides nothing.
std::optional<double> MonitorValue(const std::string& monitor, const std::vector<TaskConfig>& tasks,
                                   const Predictions& predictions, const TaskMetrics& metrics);
// Is a larger value of this monitor better? True for auc, gauc, xauc, accuracy, recall and ndcg.
bool LargerIsBetter(const std::string& monitor);

}  // namespace gatemill::train
