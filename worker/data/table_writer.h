// Columns of results to a file: CSV or, by its name's ending, Parquet.
//
// Numbers are written with the fewest digits that read back as the same float, so that equal scores are equal text.
// The file appears whole, by rename; an existing one is replaced. Errors: kInvalidInput for another ending or a path that
// cannot be written. Thread safety: free function.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "common/status.h"

namespace gatemill::data {

struct OutputColumn {
  std::string name;
  std::variant<std::vector<float>, std::vector<std::string>> values;  // columns of one table have one length
};

// Does the ending of `path` name a format, and could a file be written there? Asked before the work whose result is to be written.
Status CheckOutputPath(const std::string& path);
Status WriteTable(const std::string& path, const std::vector<OutputColumn>& columns);

}  // namespace gatemill::data
