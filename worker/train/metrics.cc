#include "worker/train/metrics.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <set>

#include "common/config_metrics.h"
#include "worker/model/losses.h"

namespace gatemill::train {
namespace {

constexpr double kLogLossClip = 1e-7;

template <typename T>
void AppendBytes(const std::vector<T>& values, std::string* bytes) {
  bytes->append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// Reads `count` values at *offset of `bytes`; false when they are not there.
template <typename T>
bool TakeValues(const std::string& bytes, std::size_t count, std::size_t* offset, std::vector<T>* values) {
  if (bytes.size() < *offset + count * sizeof(T)) return false;
  const std::size_t before = values->size();
  values->resize(before + count);
  std::memcpy(values->data() + before, bytes.data() + *offset, count * sizeof(T));
  *offset += count * sizeof(T);
  return true;
}

// Visits every vector of [n] values, the sample numbers last.
template <typename Visit>
void ForEachColumn(Predictions* predictions, const Visit& visit) {
  for (auto& scores : predictions->scores) visit(&scores);
  for (auto& labels : predictions->labels) visit(&labels);
  for (auto& [column, groups] : predictions->groups) visit(&groups);
  visit(&predictions->samples);
}

// The positions 0 to n - 1 sorted by `less`; those that are equal to it ascend.
template <typename Less>
std::vector<std::uint32_t> SortedPositions(std::size_t n, const Less& less) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(), less);
  return order;
}

void SortBySample(Predictions* predictions) {
  const std::vector<std::uint64_t>& samples = predictions->samples;
  if (std::is_sorted(samples.begin(), samples.end())) return;
  const auto order = SortedPositions(samples.size(), [&](std::uint32_t a, std::uint32_t b) { return samples[a] < samples[b]; });
  const auto reorder = [&](auto* values) {
    auto sorted = *values;
    for (std::size_t i = 0; i < order.size(); ++i) sorted[i] = (*values)[order[i]];
    *values = std::move(sorted);
  };
  ForEachColumn(predictions, reorder);
}

double Positives(std::span<const float> labels) {
  return static_cast<double>(std::count_if(labels.begin(), labels.end(), [](float label) { return label > 0.5F; }));
}

// Calls visit(scores, labels) for each group, the highest scores first; groups in the order of their keys.
template <typename Visit>
void ForEachGroup(std::span<const float> scores, std::span<const float> labels, std::span<const std::uint64_t> groups,
                  const Visit& visit) {
  const std::vector<std::uint32_t> order = SortedPositions(groups.size(), [&](std::uint32_t a, std::uint32_t b) {
    return groups[a] != groups[b] ? groups[a] < groups[b] : scores[a] > scores[b];
  });
  std::vector<float> group_scores;
  std::vector<float> group_labels;
  for (std::size_t i = 0; i < order.size(); ++i) {
    group_scores.push_back(scores[order[i]]);
    group_labels.push_back(labels[order[i]]);
    if (i + 1 < order.size() && groups[order[i + 1]] == groups[order[i]]) continue;
    visit(std::span<const float>(group_scores), std::span<const float>(group_labels));
    group_scores.clear();
    group_labels.clear();
  }
}

// Of labels in their ranks' order.
double Dcg(std::span<const float> labels, int k) {
  double sum = 0.0;
  for (std::size_t i = 0; i < std::min(labels.size(), static_cast<std::size_t>(k)); ++i) {
    sum += std::max(0.0, static_cast<double>(labels[i])) / std::log2(static_cast<double>(i) + 2.0);
  }
  return sum;
}

// Counts of ranks 0 to `ranks` - 1, and how many lie below one, each in O(log ranks) (Fenwick 1994).
class RankCounts {
 public:
  explicit RankCounts(std::size_t ranks) : sums_(ranks + 1, 0) {}

  void Add(std::size_t rank) {
    for (std::size_t i = rank + 1; i < sums_.size(); i += i & (~i + 1)) ++sums_[i];
  }
  [[nodiscard]] std::uint64_t Below(std::size_t rank) const {
    std::uint64_t sum = 0;
    for (std::size_t i = rank; i > 0; i &= i - 1) sum += sums_[i];
    return sum;
  }

 private:
  std::vector<std::uint64_t> sums_;
};

// Each score's position among the distinct scores, ascending.
std::vector<std::uint32_t> DenseRanks(std::span<const float> scores) {
  const auto order = SortedPositions(scores.size(), [&](std::uint32_t a, std::uint32_t b) { return scores[a] < scores[b]; });
  std::vector<std::uint32_t> ranks(scores.size());
  for (std::size_t i = 1; i < order.size(); ++i) {
    ranks[order[i]] = ranks[order[i - 1]] + (scores[order[i]] > scores[order[i - 1]] ? 1 : 0);
  }
  return ranks;
}

std::optional<double> GroupMetricOf(const MetricConfig& metric, std::span<const float> scores, std::span<const float> labels,
                                    std::span<const std::uint64_t> groups) {
  if (metric.type == "gauc") return GroupAuc(scores, labels, groups);
  if (metric.type == "recall") return RecallAtK(scores, labels, groups, metric.k);
  return NdcgAtK(scores, labels, groups, metric.k);
}

std::optional<double> MetricOf(const MetricConfig& metric, std::size_t task, const Predictions& predictions) {
  const std::span<const float> scores = predictions.scores[task];
  const std::span<const float> labels = predictions.labels[task];
  if (scores.empty()) return std::nullopt;
  if (metric.has_groups()) return GroupMetricOf(metric, scores, labels, predictions.groups.at(metric.by));
  if (metric.type == "auc") return Auc(scores, labels);
  if (metric.type == "logloss") return LogLoss(scores, labels);
  if (metric.type == "ne") return NormalizedEntropy(scores, labels);
  if (metric.type == "calibration") return Calibration(scores, labels);
  if (metric.type == "calibration_error") return CalibrationError(scores, labels, metric.buckets);
  if (metric.type == "accuracy") return Accuracy(scores, labels);
  if (metric.type == "rmse") return Rmse(scores, labels);
  if (metric.type == "xauc") return Xauc(scores, labels);
  return Mae(scores, labels);
}

std::optional<double> Find(const TaskMetrics& metrics, const std::string& task, const std::string& metric) {
  const auto of_task = metrics.find(task);
  if (of_task == metrics.end()) return std::nullopt;
  const auto value = of_task->second.find(metric);
  return value == of_task->second.end() ? std::nullopt : value->second;
}

// What training minimizes, over all samples: whatever metrics the tasks list.
std::optional<double> WeightedLoss(const std::vector<TaskConfig>& tasks, const Predictions& predictions) {
  if (predictions.samples.empty()) return std::nullopt;
  double loss = 0.0;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    double sum = 0.0;
    for (std::size_t i = 0; i < predictions.samples.size(); ++i) {
      sum += model::LossOf(tasks[t], model::OutputOf(tasks[t], predictions.scores[t][i]), predictions.labels[t][i]).loss;
    }
    loss += tasks[t].weight * sum / static_cast<double>(predictions.samples.size());
  }
  return loss;
}

}  // namespace

std::optional<double> Auc(std::span<const float> scores, std::span<const float> labels) {
  const auto order = SortedPositions(scores.size(), [&](std::uint32_t a, std::uint32_t b) { return scores[a] < scores[b]; });
  double rank_sum = 0.0;  // of the positives; ranks from 1, ties share their mean rank
  double positives = 0.0;
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin;
    double tied_positives = 0.0;
    while (end < order.size() && scores[order[end]] == scores[order[begin]]) {
      tied_positives += labels[order[end]] > 0.5F ? 1.0 : 0.0;
      ++end;
    }
    rank_sum += tied_positives * 0.5 * static_cast<double>(begin + 1 + end);
    positives += tied_positives;
    begin = end;
  }
  const double negatives = static_cast<double>(scores.size()) - positives;
  if (positives == 0.0 || negatives == 0.0) return std::nullopt;
  return (rank_sum - positives * (positives + 1.0) / 2.0) / (positives * negatives);
}

std::optional<double> GroupAuc(std::span<const float> scores, std::span<const float> labels,
                               std::span<const std::uint64_t> groups) {
  double sum = 0.0;
  double samples = 0.0;
  ForEachGroup(scores, labels, groups, [&](std::span<const float> group_scores, std::span<const float> group_labels) {
    const std::optional<double> auc = Auc(group_scores, group_labels);
    if (!auc) return;
    const auto n = static_cast<double>(group_scores.size());
    sum += n * *auc;
    samples += n;
  });
  return samples > 0.0 ? std::optional(sum / samples) : std::nullopt;
}

std::optional<double> NormalizedEntropy(std::span<const float> scores, std::span<const float> labels) {
  const double share = Positives(labels) / static_cast<double>(labels.size());
  if (labels.empty() || share == 0.0 || share == 1.0) return std::nullopt;
  return LogLoss(scores, labels) / -(share * std::log(share) + (1.0 - share) * std::log1p(-share));
}

std::optional<double> Calibration(std::span<const float> scores, std::span<const float> labels) {
  const double of_labels = std::accumulate(labels.begin(), labels.end(), 0.0);
  if (of_labels <= 0.0) return std::nullopt;
  return std::accumulate(scores.begin(), scores.end(), 0.0) / of_labels;
}

std::optional<double> Xauc(std::span<const float> scores, std::span<const float> labels) {
  const std::vector<std::uint32_t> ranks = DenseRanks(scores);
  const auto order = SortedPositions(labels.size(), [&](std::uint32_t a, std::uint32_t b) { return labels[a] < labels[b]; });
  RankCounts lower(labels.size());  // scores of the samples with a lower label
  std::uint64_t pairs = 0;
  std::uint64_t halves = 0;  // twice the pairs in order, and once those with equal scores
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin;
    for (; end < order.size() && labels[order[end]] == labels[order[begin]]; ++end) {
      const std::uint32_t rank = ranks[order[end]];
      halves += lower.Below(rank) + lower.Below(rank + 1);
      pairs += begin;
    }
    for (; begin < end; ++begin) lower.Add(ranks[order[begin]]);
  }
  return pairs > 0 ? std::optional(0.5 * static_cast<double>(halves) / static_cast<double>(pairs)) : std::nullopt;
}

std::optional<double> RecallAtK(std::span<const float> scores, std::span<const float> labels,
                                std::span<const std::uint64_t> groups, int k) {
  double sum = 0.0;
  double count = 0.0;
  ForEachGroup(scores, labels, groups, [&](std::span<const float>, std::span<const float> group_labels) {
    const double positives = Positives(group_labels);
    if (positives == 0.0) return;
    sum += Positives(group_labels.first(std::min(group_labels.size(), static_cast<std::size_t>(k)))) / positives;
    count += 1.0;
  });
  return count > 0.0 ? std::optional(sum / count) : std::nullopt;
}

std::optional<double> NdcgAtK(std::span<const float> scores, std::span<const float> labels,
                              std::span<const std::uint64_t> groups, int k) {
  double sum = 0.0;
  double count = 0.0;
  std::vector<float> best;
  ForEachGroup(scores, labels, groups, [&](std::span<const float>, std::span<const float> group_labels) {
    best.assign(group_labels.begin(), group_labels.end());
    std::sort(best.begin(), best.end(), std::greater<>());
    const double most = Dcg(best, k);
    if (most == 0.0) return;
    sum += Dcg(group_labels, k) / most;
    count += 1.0;
  });
  return count > 0.0 ? std::optional(sum / count) : std::nullopt;
}

double LogLoss(std::span<const float> scores, std::span<const float> labels) {
  double sum = 0.0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const double p = std::clamp(static_cast<double>(scores[i]), kLogLossClip, 1.0 - kLogLossClip);
    sum -= labels[i] > 0.5F ? std::log(p) : std::log1p(-p);
  }
  return sum / static_cast<double>(scores.size());
}

double Rmse(std::span<const float> scores, std::span<const float> labels) {
  double sum = 0.0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const double difference = static_cast<double>(scores[i]) - static_cast<double>(labels[i]);
    sum += difference * difference;
  }
  return std::sqrt(sum / static_cast<double>(scores.size()));
}

double Mae(std::span<const float> scores, std::span<const float> labels) {
  double sum = 0.0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    sum += std::fabs(static_cast<double>(scores[i]) - static_cast<double>(labels[i]));
  }
  return sum / static_cast<double>(scores.size());
}

double Accuracy(std::span<const float> scores, std::span<const float> labels) {
  double right = 0.0;
  for (std::size_t i = 0; i < scores.size(); ++i) right += (scores[i] > 0.5F) == (labels[i] > 0.5F) ? 1.0 : 0.0;
  return right / static_cast<double>(scores.size());
}

double CalibrationError(std::span<const float> scores, std::span<const float> labels, int buckets) {
  const std::size_t n = scores.size();
  const auto order = SortedPositions(n, [&](std::uint32_t a, std::uint32_t b) { return scores[a] < scores[b]; });
  const auto count = static_cast<std::size_t>(buckets);
  double sum = 0.0;
  for (std::size_t b = 0; b < count; ++b) {
    double difference = 0.0;
    for (std::size_t i = b * n / count; i < (b + 1) * n / count; ++i) {
      difference += static_cast<double>(scores[order[i]]) - static_cast<double>(labels[order[i]]);
    }
    sum += std::fabs(difference);
  }
  return sum / static_cast<double>(n);
}

Result<Predictions> GatherPredictions(Predictions mine, collective::Collective* workers) {
  if (workers->size() > 1) {
    std::string bytes;
    ForEachColumn(&mine, [&](auto* values) {
      AppendBytes(*values, &bytes);
      values->clear();
      values->shrink_to_fit();
    });
    std::size_t bytes_per_sample = 0;
    ForEachColumn(&mine, [&](auto* values) { bytes_per_sample += sizeof((*values)[0]); });
    GM_ASSIGN_OR_RETURN(const std::vector<std::string> all, workers->AllGather(bytes));
    for (const std::string& part : all) {
      const std::size_t count = part.size() / bytes_per_sample;
      std::size_t offset = 0;
      bool whole = part.size() % bytes_per_sample == 0;
      ForEachColumn(&mine, [&](auto* values) { whole = whole && TakeValues(part, count, &offset, values); });
      if (!whole) return Internal("a worker sent predictions of an unexpected size");
    }
  }
  SortBySample(&mine);
  return mine;
}

TaskMetrics ComputeMetrics(const std::vector<TaskConfig>& tasks, const Predictions& predictions) {
  TaskMetrics metrics;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    MetricValues& values = metrics[tasks[t].name];
    const std::vector<std::string> names = MetricNames(tasks[t].metrics);
    for (std::size_t m = 0; m < names.size(); ++m) values[names[m]] = MetricOf(tasks[t].metrics[m], t, predictions);
  }
  return metrics;
}

std::optional<double> MonitorValue(const std::string& monitor, const std::vector<TaskConfig>& tasks,
                                   const Predictions& predictions, const TaskMetrics& metrics) {
  if (monitor == "loss") return WeightedLoss(tasks, predictions);
  const std::optional<WatchedMetric> watched = ParseMonitor(monitor);
  if (!watched) return std::nullopt;
  if (!watched->task.empty()) return Find(metrics, watched->task, watched->metric);
  double sum = 0.0;
  int count = 0;
  for (const TaskConfig& task : tasks) {
    if (const auto value = Find(metrics, task.name, watched->metric)) {
      sum += *value;
      ++count;
    }
  }
  return count > 0 ? std::optional(sum / count) : std::nullopt;
}

bool LargerIsBetter(const std::string& monitor) {
  static const std::set<std::string, std::less<>> kLarger = {"auc", "gauc", "xauc", "accuracy", "recall", "ndcg"};
  const std::optional<WatchedMetric> watched = ParseMonitor(monitor);
  return watched && kLarger.contains(MetricTypeOf(watched->metric));
}

}  // namespace gatemill::train
