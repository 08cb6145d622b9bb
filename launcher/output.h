// What commands print: one JSON object on standard output with --json, else tables for a person.
// Thread safety: free functions.
#pragma once

#include <cstdio>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "worker/train/metrics.h"

namespace gatemill::launcher {

// Columns aligned, two spaces between; the first row is the heading.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);
// A row per task and part, a column per metric: {"valid", metrics}, {"test", metrics}. "" when there are none.
std::string FormatMetrics(const std::vector<std::pair<std::string, train::TaskMetrics>>& parts);
// The shares of unseen values worth knowing (above 0.1%), as one line; "" when there is none.
std::string FormatUnseen(const std::vector<std::string>& features, const std::vector<double>& shares);
// Where a command's report for a person goes: standard output, or with --json, which owns that, standard error.
std::FILE* ReportStream(bool json);
// The last line of standard output. Bytes that are no UTF-8 become U+FFFD: a value may be in any encoding.
void PrintJsonLine(const nlohmann::json& json);

}  // namespace gatemill::launcher
