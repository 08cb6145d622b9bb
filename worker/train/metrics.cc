#include "worker/train/metrics.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

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

void SortBySample(Predictions* predictions) {
  const std::vector<std::uint64_t>& samples = predictions->samples;
  if (std::is_sorted(samples.begin(), samples.end())) return;
  std::vector<std::uint32_t> order(samples.size());
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return samples[a] < samples[b]; });
  const auto reorder = [&](auto* values) {
    auto sorted = *values;
    for (std::size_t i = 0; i < order.size(); ++i) sorted[i] = (*values)[order[i]];
    *values = std::move(sorted);
  };
  for (auto& scores : predictions->scores) reorder(&scores);
  for (auto& labels : predictions->labels) reorder(&labels);
  reorder(&predictions->samples);
}

std::optional<double> MetricOf(const std::string& metric, std::span<const float> scores,
                               std::span<const float> labels) {
  if (scores.empty()) return std::nullopt;
  if (metric == "auc") return Auc(scores, labels);
  if (metric == "logloss") return LogLoss(scores, labels);
  if (metric == "rmse") return Rmse(scores, labels);
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
    const auto& scores = predictions.scores[t];
    const auto& labels = predictions.labels[t];
    const double rmse = tasks[t].loss == "mse" ? Rmse(scores, labels) : 0.0;
    loss += tasks[t].weight * (tasks[t].loss == "mse" ? rmse * rmse : LogLoss(scores, labels));
  }
  return loss;
}

}  // namespace

std::optional<double> Auc(std::span<const float> scores, std::span<const float> labels) {
  std::vector<std::uint32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return scores[a] < scores[b]; });
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

Result<Predictions> GatherPredictions(Predictions mine, collective::Collective* workers) {
  if (workers->size() > 1) {
    const std::size_t tasks = mine.scores.size();
    const bool labelled = !mine.labels.empty();
    std::string bytes;
    AppendBytes(mine.samples, &bytes);
    for (const auto& scores : mine.scores) AppendBytes(scores, &bytes);
    for (const auto& labels : mine.labels) AppendBytes(labels, &bytes);
    GM_ASSIGN_OR_RETURN(const std::vector<std::string> all, workers->AllGather(bytes));
    mine = Predictions{.samples = {}, .scores = std::vector<std::vector<float>>(tasks),
                       .labels = std::vector<std::vector<float>>(labelled ? tasks : 0)};
    const std::size_t bytes_per_sample = sizeof(std::uint64_t) + (labelled ? 2 : 1) * tasks * sizeof(float);
    for (const std::string& part : all) {
      const std::size_t count = part.size() / bytes_per_sample;
      std::size_t offset = 0;
      bool whole = part.size() % bytes_per_sample == 0 && TakeValues(part, count, &offset, &mine.samples);
      for (auto& scores : mine.scores) whole = whole && TakeValues(part, count, &offset, &scores);
      for (auto& labels : mine.labels) whole = whole && TakeValues(part, count, &offset, &labels);
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
    for (const std::string& metric : tasks[t].metrics) {
      values[metric] = MetricOf(metric, predictions.scores[t], predictions.labels[t]);
    }
  }
  return metrics;
}

std::optional<double> MonitorValue(const std::string& monitor, const std::vector<TaskConfig>& tasks,
                                   const Predictions& predictions, const TaskMetrics& metrics) {
  if (monitor == "loss") return WeightedLoss(tasks, predictions);
  if (monitor.starts_with("mean(") && monitor.ends_with(")")) {
    const std::string metric = monitor.substr(5, monitor.size() - 6);
    double sum = 0.0;
    int count = 0;
    for (const TaskConfig& task : tasks) {
      if (const auto value = Find(metrics, task.name, metric)) {
        sum += *value;
        ++count;
      }
    }
    return count > 0 ? std::optional(sum / count) : std::nullopt;
  }
  const std::size_t point = monitor.rfind('.');
  if (point == std::string::npos) return std::nullopt;
  return Find(metrics, monitor.substr(0, point), monitor.substr(point + 1));
}

bool LargerIsBetter(const std::string& monitor) { return monitor == "mean(auc)" || monitor.ends_with(".auc"); }

}  // namespace gatemill::train
