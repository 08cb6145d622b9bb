#include "worker/data/part_reader.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/file.h"
#include "common/keys.h"
#include "common/random.h"
#include "worker/data/text.h"

namespace gatemill::data {
namespace {

constexpr std::uint64_t kSplitSalt = 0x73706c6974ULL;  // "split"

// The position of `name` in `columns`, appended when it is not there.
std::size_t PositionOf(const std::string& name, std::vector<std::string>* columns) {
  const auto found = std::find(columns->begin(), columns->end(), name);
  const auto position = static_cast<std::size_t>(found - columns->begin());
  if (found == columns->end()) columns->push_back(name);
  return position;
}

bool SplitsByColumn(const SplitConfig& split) { return split.ratio < 1.0 && split.by != "row" && split.by != "hash"; }

}  // namespace

Result<std::vector<std::string>> ExpandFiles(const DataConfig& data, const PartConfig& part, const std::string& name) {
  std::vector<std::string> paths;
  for (const std::string& file : part.files) {
    const std::string pattern = DataPath(data, file);
    Result<std::vector<std::string>> found = Glob(pattern);
    if (!found.ok()) {
      return InvalidInput(pattern + ": no such file (" + name + "); check data.root and the names of the files");
    }
    paths.insert(paths.end(), found->begin(), found->end());
  }
  if (paths.empty()) return InvalidInput(name + " names no file");
  return paths;
}

Result<PartSpec> ResolvePart(const DataConfig& data, Part part, const PartConfig* files) {
  PartSpec spec;
  spec.limit = data.limit;
  const PartConfig* source = files;
  if (files != nullptr) {
    spec.name = "the data";
  } else {
    const std::string own = part == Part::kTrain ? "train" : part == Part::kValid ? "valid" : "test";
    // Files of its own turn the split off.
    const bool splits = data.split.ratio < 1.0 && (data.split.rest == "valid" ? data.valid : data.test).empty();
    const bool rest = splits && data.split.rest == own;
    source = part == Part::kTrain || rest ? &data.train : part == Part::kValid ? &data.valid : &data.test;
    spec.name = rest ? "data.train, the share that is the " + own + " part" : "data." + own;
    spec.first_share = part == Part::kTrain;
    if (splits && (part == Part::kTrain || rest)) spec.split = data.split;
  }
  GM_ASSIGN_OR_RETURN(spec.files, ExpandFiles(data, *source, spec.name));
  spec.where = source->where;
  return spec;
}

Result<std::unique_ptr<PartReader>> PartReader::Open(const DataConfig& data, const PartSpec& spec,
                                                     const std::vector<std::string>& columns,
                                                     const std::atomic<bool>* stop) {
  auto reader = std::unique_ptr<PartReader>(new PartReader(data, spec, columns, stop));
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                      ReadHeader(spec.files[0], CsvOptionsFor(data, spec.files[0])));
  Result<Filter> filter = Filter::Parse(spec.where, names);
  if (!filter.ok()) return filter.status().Annotate(spec.name);
  reader->filter_ = std::move(filter).value();
  for (const std::string& column : reader->filter_->columns()) {
    reader->filter_columns_.push_back(PositionOf(column, &reader->columns_));
  }
  if (SplitsByColumn(spec.split)) reader->split_column_ = PositionOf(spec.split.by, &reader->columns_);
  if (spec.split.ratio < 1.0 && spec.split.by == "row") GM_RETURN_IF_ERROR(reader->CountForSplit());
  GM_RETURN_IF_ERROR(reader->OpenFile());
  return reader;
}

// A share of rows needs their number first: one pass over the columns that `where` needs.
Status PartReader::CountForSplit() {
  PartSpec all = spec_;
  all.split = {};
  all.limit = 0;
  GM_ASSIGN_OR_RETURN(const std::unique_ptr<PartReader> reader, Open(data_, all, {}, stop_));
  std::uint64_t rows = 0;
  while (true) {
    GM_ASSIGN_OR_RETURN(const std::optional<RowBlock> block, reader->Next());
    if (!block) break;
    rows += block->rows.size();
  }
  split_rows_ = static_cast<std::uint64_t>(std::llround(static_cast<double>(rows) * spec_.split.ratio));
  return Ok();
}

Status PartReader::OpenFile() {
  const std::string& path = spec_.files[file_];
  const CsvOptions options = CsvOptionsFor(data_, path);
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> names, ReadHeader(path, options));
  std::vector<std::size_t> wanted;
  for (const std::string& column : columns_) {
    const auto found = std::find(names.begin(), names.end(), column);
    if (found == names.end()) {
      return InvalidInput(path + (data_.header ? ":1" : "") + ": no column " + Quoted(column) +
                          SuggestColumn(column, names));
    }
    wanted.push_back(static_cast<std::size_t>(found - names.begin()));
  }
  GM_ASSIGN_OR_RETURN(source_, CsvSource::Open(path, options, names.size(), wanted, stop_));
  return Ok();
}

Result<std::optional<RowBlock>> PartReader::Next() {
  const auto limit = static_cast<std::uint64_t>(spec_.limit);
  while (file_ < spec_.files.size() && (limit == 0 || samples_ < limit)) {
    if (source_ == nullptr) GM_RETURN_IF_ERROR(OpenFile());
    GM_ASSIGN_OR_RETURN(std::optional<TextBlock> text, source_->Next());
    if (!text) {
      source_.reset();
      ++file_;
      continue;
    }
    RowBlock block;
    block.text = std::move(*text);
    block.file = file_;
    block.first_sample = samples_;
    SelectRows(&block);
    if (limit > 0 && samples_ + block.rows.size() > limit) block.rows.resize(limit - samples_);
    samples_ += block.rows.size();
    if (!block.rows.empty()) return std::optional<RowBlock>(std::move(block));
  }
  source_.reset();
  file_ = spec_.files.size();
  if (samples_ == 0) return NoRows();
  return std::optional<RowBlock>();
}

void PartReader::SelectRows(RowBlock* block) {
  const auto rows = static_cast<std::uint32_t>(block->text.rows);
  block->rows.reserve(rows);
  std::vector<std::string_view> values(filter_columns_.size());
  for (std::uint32_t row = 0; row < rows; ++row) {
    const std::uint64_t file_row = rows_before_ + row;
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = block->text.columns[filter_columns_[i]][row];
    if (!filter_->Keep(values)) continue;
    const std::string_view text = split_column_ ? block->text.columns[*split_column_][row] : std::string_view();
    if (spec_.split.ratio >= 1.0 || InShare(file_row, text) == spec_.first_share) block->rows.push_back(row);
    ++passed_where_;
  }
  rows_before_ += rows;
}

bool PartReader::InShare(std::uint64_t file_row, std::string_view value) {
  if (spec_.split.by == "row") return passed_where_ < split_rows_;
  const std::uint64_t drawn = split_column_ ? KeyOfText(value, kSplitSalt) : file_row;
  return ToUniformDouble(RandomBits(kSplitSalt, drawn)) < spec_.split.ratio;
}

Status PartReader::NoRows() const {
  const std::string where = spec_.name + ": " + spec_.files[0] + (spec_.files.size() > 1 ? ", ..." : "");
  if (rows_before_ == 0) return InvalidInput(where + ": no rows" + (data_.header ? " after the header line" : ""));
  if (passed_where_ == 0) return InvalidInput(where + ": none of " + std::to_string(rows_before_) +
                                              " rows passes where: \"" + spec_.where + "\"");
  return InvalidInput(where + ": data.split leaves no row of " + std::to_string(passed_where_) + " for this part");
}

Status PartReader::ValueError(const RowBlock& block, std::uint32_t row, const std::string& column,
                              const std::string& what) const {
  const std::string& path = spec_.files[block.file];
  const std::int64_t line = LineOfRow(path, CsvOptionsFor(data_, path), block.text.first_row + row);
  return InvalidInput(path + ":" + std::to_string(line) + ": column " + Quoted(column) + ": " + what);
}

}  // namespace gatemill::data
