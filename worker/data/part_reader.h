// A part of the data as blocks of text rows: its files one after the other, with where, split and limit applied.
//
//   GM_ASSIGN_OR_RETURN(auto spec, ResolvePart(data, Part::kTrain, nullptr));
//   GM_ASSIGN_OR_RETURN(auto reader, PartReader::Open(data, spec, {"age", "income"}, stop));
//   while (true) {
//     GM_ASSIGN_OR_RETURN(auto block, reader->Next());
//     if (!block) break;
//     for (std::uint32_t row : block->rows) use(block->text.columns[0][row]);
//   }
//
// A sample's number is its position among the rows that pass, in file order. `split` counts the rows that pass `where`
// (by: row), or draws by the row's number over all files (by: hash) or by a column's text; it needs no seed, so that
// every run splits alike. Errors: as csv_source.h, and unknown columns. Thread safety: a reader belongs to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "worker/data/csv_source.h"
#include "worker/data/dataset.h"
#include "worker/data/filter.h"

namespace gatemill::data {

struct PartSpec {
  std::vector<std::string> files;  // paths, at least one
  std::string where;
  SplitConfig split;               // ratio 1: no split
  bool first_share = true;         // of the split: the share that trains, or the rest
  std::int64_t limit = 0;
  std::string name;                // "data.train", for messages
};

// `files`: what to read instead of the configuration's part, without a split; or null.
Result<PartSpec> ResolvePart(const DataConfig& data, Part part, const PartConfig* files);
// The part's paths: root joined, globs expanded. kInvalidInput names a path or glob that matches no file.
Result<std::vector<std::string>> ExpandFiles(const DataConfig& data, const PartConfig& part, const std::string& name);

struct RowBlock {
  TextBlock text;
  std::vector<std::uint32_t> rows;  // positions in `text` of the samples, ascending; may be empty
  std::uint64_t first_sample = 0;   // number of the sample at rows[0]; the others follow
  std::size_t file = 0;             // position in PartSpec::files
};

class PartReader {
 public:
  // `columns`: what RowBlock::text.columns holds, in this order (more may follow them).
  static Result<std::unique_ptr<PartReader>> Open(const DataConfig& data, const PartSpec& spec,
                                                  const std::vector<std::string>& columns,
                                                  const std::atomic<bool>* stop);
  // The next rows; nothing at the end of the part. A part without any sample is kInvalidInput at its end.
  Result<std::optional<RowBlock>> Next();

  // kInvalidInput `file:line: column "NAME": what`, for position `row` of block.text. Reads the file again.
  [[nodiscard]] Status ValueError(const RowBlock& block, std::uint32_t row, const std::string& column,
                                  const std::string& what) const;

 private:
  PartReader(const DataConfig& data, PartSpec spec, std::vector<std::string> columns, const std::atomic<bool>* stop)
      : data_(data), spec_(std::move(spec)), columns_(std::move(columns)), stop_(stop) {}
  Status OpenFile();
  Status CountForSplit();
  void SelectRows(RowBlock* block);
  [[nodiscard]] bool InShare(std::uint64_t file_row, std::string_view value);
  [[nodiscard]] Status NoRows() const;

  const DataConfig data_;
  const PartSpec spec_;
  std::vector<std::string> columns_;  // the caller's, then the filter's and the split's
  const std::atomic<bool>* stop_;
  std::optional<Filter> filter_;
  std::vector<std::size_t> filter_columns_;        // positions in columns_
  std::optional<std::size_t> split_column_;        // position in columns_
  std::uint64_t split_rows_ = 0;                   // by: row; rows of the first share
  std::size_t file_ = 0;                           // the open one, or the next to open
  std::unique_ptr<CsvSource> source_;              // of file_; null between files
  std::uint64_t rows_before_ = 0;                  // of the block, over all files
  std::uint64_t passed_where_ = 0;
  std::uint64_t samples_ = 0;
};

}  // namespace gatemill::data
