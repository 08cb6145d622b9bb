// One CSV or TSV file, plain or .gz, as blocks of text columns. Arrow's reader does the work; its headers stay in
// csv_source.cc.
//
//   GM_ASSIGN_OR_RETURN(auto names, ReadHeader(path, options));
//   GM_ASSIGN_OR_RETURN(auto source, CsvSource::Open(path, options, names.size(), {3, 0}, stop));
//   while (true) {
//     GM_ASSIGN_OR_RETURN(auto block, source->Next());
//     if (!block) break;   // end of file
//   }
//
// Two threads work ahead: one reads and inflates, one splits rows into fields. Quoting is RFC 4180's; lines end in LF,
// CRLF or CR; a UTF-8 byte order mark is skipped; blank lines are no rows.
//
// Errors: kInvalidInput with file:line for a missing, empty, truncated or damaged file and for rows with too few or too
// many columns; kCancelled when `stop` is set. Thread safety: a source belongs to one thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/config.h"
#include "common/status.h"

namespace gatemill::data {

inline constexpr std::int64_t kMaxRowBytes = 64 << 20;  // a longer row is an unclosed quote or no CSV at all

struct CsvOptions {
  char delimiter = ',';
  bool header = true;
  std::vector<std::string> column_names;  // without a header line
};
// The options for one file of the data: the delimiter by data.format or the extension (.tsv, .tsv.gz, .txt and .tab
// whose first line has a tab).
CsvOptions CsvOptionsFor(const DataConfig& data, const std::string& path);

// The column names: of the header line, or options.column_names, checked against the first row.
Result<std::vector<std::string>> ReadHeader(const std::string& path, const CsvOptions& options);

struct TextBlock {
  std::int64_t first_row = 0;  // of the file, data rows from 0
  std::int64_t rows = 0;
  std::vector<std::vector<std::string_view>> columns;  // [wanted columns][rows], views into `memory`
  std::shared_ptr<const void> memory;
};

class CsvSource {
 public:
  // `wanted`: positions of the columns to deliver, among num_columns. `stop` may be null; it outlives the source.
  static Result<std::unique_ptr<CsvSource>> Open(const std::string& path, const CsvOptions& options,
                                                 std::size_t num_columns, const std::vector<std::size_t>& wanted,
                                                 const std::atomic<bool>* stop);
  virtual ~CsvSource() = default;
  // The next rows, at least one; nothing at the end of the file.
  virtual Result<std::optional<TextBlock>> Next() = 0;
};

// The physical line (from 1) on which data row `row` (from 0) starts; 0 when the file cannot be read so far. Reads the
// file again: for messages only.
std::int64_t LineOfRow(const std::string& path, const CsvOptions& options, std::int64_t row);

}  // namespace gatemill::data
