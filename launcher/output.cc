#include "launcher/output.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace gatemill::launcher {
namespace {

std::string FormatMetric(const std::optional<double>& value) {
  if (!value) return "undefined";
  char text[32];
  std::snprintf(text, sizeof(text), "%.5f", *value);
  return text;
}

}  // namespace

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string table;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      line += row[c];
      if (c + 1 < row.size()) line.append(widths[c] - row[c].size() + 2, ' ');
    }
    table += line + "\n";
  }
  return table;
}

std::string FormatMetrics(const std::vector<std::pair<std::string, train::TaskMetrics>>& parts) {
  std::vector<std::string> tasks;
  for (const auto& [part, metrics] : parts) {
    for (const auto& [task, values] : metrics) {
      if (std::find(tasks.begin(), tasks.end(), task) == tasks.end()) tasks.push_back(task);
    }
  }
  std::vector<std::vector<std::string>> rows{{"task", "part", "metrics"}};
  for (const std::string& task : tasks) {
    for (const auto& [part, metrics] : parts) {
      const auto values = metrics.find(task);
      if (values == metrics.end()) continue;
      std::vector<std::string> row{task, part};
      for (const auto& [metric, value] : values->second) row.push_back(metric + " " + FormatMetric(value));
      rows.push_back(std::move(row));
    }
  }
  return rows.size() == 1 ? std::string() : FormatTable(rows);
}

std::string FormatUnseen(const std::vector<std::string>& features, const std::vector<double>& shares) {
  std::string line;
  for (std::size_t f = 0; f < features.size(); ++f) {
    if (shares[f] < 0.001) continue;
    char share[32];
    std::snprintf(share, sizeof(share), " %.1f%%", shares[f] * 100.0);
    line += (line.empty() ? "" : ", ") + features[f] + share;
  }
  return line;
}

std::FILE* ReportStream(bool json) { return json ? stderr : stdout; }

void PrintJsonLine(const nlohmann::json& json) {
  std::printf("%s\n", json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  std::fflush(stdout);
}

}  // namespace gatemill::launcher
