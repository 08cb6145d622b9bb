// What follows from the metrics that tasks ask for: their names, the columns of their groups, what early stopping may watch.
//
// Thread safety: pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/config.h"

namespace gatemill {

// What each of a task's metrics is called in output and in early_stopping.monitor, in their order: the type, with @k where it
// has one ("gauc", "ndcg@10"). Those that would be called the same have their column or buckets behind it:
// "gauc(user_id)", "calibration_error(20)".
std::vector<std::string> MetricNames(const std::vector<MetricConfig>& metrics);

// The type of the metric that is called `name`: "ndcg" of "ndcg@10".
std::string_view MetricTypeOf(std::string_view name);

// The columns whose values are groups, each once, in the order of tasks and metrics.
std::vector<std::string> GroupColumns(const std::vector<TaskConfig>& tasks);

// What a monitor other than "loss" watches: "click.ndcg@10" (TASK.METRIC), "mean(gauc)" (over the tasks that have it). A name
// of a task has no point, one of a metric may. None for other text.
struct WatchedMetric {
  std::string task;    // "": the mean over tasks
  std::string metric;  // its name
};
std::optional<WatchedMetric> ParseMonitor(std::string_view monitor);

}  // namespace gatemill
