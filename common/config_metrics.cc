#include "common/config_metrics.h"

#include <algorithm>

namespace gatemill {
namespace {

std::string ShortName(const MetricConfig& metric) {
  return metric.has_k() ? metric.type + "@" + std::to_string(metric.k) : metric.type;
}

std::string NameWithDetail(const MetricConfig& metric) {
  if (metric.has_groups()) return ShortName(metric) + "(" + metric.by + ")";
  if (metric.type == "calibration_error") return metric.type + "(" + std::to_string(metric.buckets) + ")";
  return ShortName(metric);
}

}  // namespace

std::vector<std::string> MetricNames(const std::vector<MetricConfig>& metrics) {
  std::vector<std::string> names;
  for (const MetricConfig& metric : metrics) {
    const auto same = std::count_if(metrics.begin(), metrics.end(),
                                    [&](const MetricConfig& other) { return ShortName(other) == ShortName(metric); });
    names.push_back(same > 1 ? NameWithDetail(metric) : ShortName(metric));
  }
  return names;
}

std::string_view MetricTypeOf(std::string_view name) { return name.substr(0, name.find_first_of("@(")); }

std::vector<std::string> GroupColumns(const std::vector<TaskConfig>& tasks) {
  std::vector<std::string> columns;
  for (const TaskConfig& task : tasks) {
    for (const MetricConfig& metric : task.metrics) {
      if (!metric.has_groups() || std::find(columns.begin(), columns.end(), metric.by) != columns.end()) continue;
      columns.push_back(metric.by);
    }
  }
  return columns;
}

std::optional<WatchedMetric> ParseMonitor(std::string_view monitor) {
  constexpr std::string_view kMean = "mean(";
  if (monitor.starts_with(kMean) && monitor.ends_with(")")) {
    monitor.remove_prefix(kMean.size());
    monitor.remove_suffix(1);
    return WatchedMetric{.task = "", .metric = std::string(monitor)};
  }
  const std::size_t point = monitor.find('.');
  if (point == std::string_view::npos || point == 0) return std::nullopt;
  return WatchedMetric{.task = std::string(monitor.substr(0, point)), .metric = std::string(monitor.substr(point + 1))};
}

}  // namespace gatemill
