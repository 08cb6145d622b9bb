#include "worker/data/csv_source.h"

#include <arrow/csv/options.h>
#include <arrow/csv/parser.h>
#include <arrow/io/compressed.h>
#include <arrow/io/file.h>
#include <arrow/result.h>
#include <arrow/util/compression.h>
#include <arrow/util/utf8.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "common/file.h"
#include "worker/data/bounded_queue.h"
#include "worker/data/text.h"

namespace gatemill::data {
namespace {

constexpr std::size_t kReadBytes = 1 << 20;
constexpr std::int32_t kBlockRows = 8192;
constexpr std::size_t kQueuedBlocks = 4;  // between two threads of the pipeline
constexpr std::chrono::milliseconds kPollStop{100};
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool IsGzip(const std::string& path) { return path.ends_with(".gz"); }

// The file's bytes, inflated when its name ends in .gz.
class ByteReader {
 public:
  static Result<std::unique_ptr<ByteReader>> Open(const std::string& path) {
    if (!FileExists(path)) return InvalidInput(path + ": no such file; check data.root and the names of the files");
    auto reader = std::unique_ptr<ByteReader>(new ByteReader(path));
    auto file = arrow::io::ReadableFile::Open(path);
    if (!file.ok()) return InvalidInput(path + ": cannot be opened: " + file.status().message());
    reader->stream_ = *file;
    if (!IsGzip(path)) return reader;
    auto codec = arrow::util::Codec::Create(arrow::Compression::GZIP);
    if (!codec.ok()) return Internal(path + ": this Arrow has no gzip: " + codec.status().message());
    reader->codec_ = std::move(*codec);
    auto inflated = arrow::io::CompressedInputStream::Make(reader->codec_.get(), *file);
    if (!inflated.ok()) return Internal(path + ": " + inflated.status().message());
    reader->stream_ = *inflated;
    return reader;
  }

  // Up to `size` bytes; fewer only at the end of the file, 0 there.
  Result<std::size_t> Read(char* out, std::size_t size) {
    std::size_t have = 0;
    while (have < size) {
      const auto got = stream_->Read(static_cast<std::int64_t>(size - have), out + have);
      if (!got.ok()) return ReadError(got.status());
      if (*got == 0) break;
      have += static_cast<std::size_t>(*got);
    }
    return have;
  }

 private:
  explicit ByteReader(std::string path) : path_(std::move(path)) {}

  [[nodiscard]] Status ReadError(const arrow::Status& status) const {
    if (!IsGzip(path_)) return InvalidInput(path_ + ": cannot be read: " + status.message());
    return InvalidInput(path_ + ": the gzip data is cut short or damaged (" + status.message() +
                        "); compress or copy the file again");
  }

  std::string path_;
  std::unique_ptr<arrow::util::Codec> codec_;  // outlives stream_
  std::shared_ptr<arrow::io::InputStream> stream_;
};

arrow::csv::ParseOptions ArrowOptions(const CsvOptions& options) {
  auto parse = arrow::csv::ParseOptions::Defaults();
  parse.delimiter = options.delimiter;
  parse.newlines_in_values = true;
  return parse;
}

std::string Place(const std::string& path, std::int64_t line) {
  return line > 0 ? path + ":" + std::to_string(line) : path;
}

std::string Columns(std::int64_t n) { return std::to_string(n) + (n == 1 ? " column" : " columns"); }

// Counts physical lines and rows of a byte stream by the same rules as Arrow's parser: a quote opens at the start of a
// field only, blank lines are no rows.
class RowCounter {
 public:
  explicit RowCounter(char delimiter) : delimiter_(delimiter) {}

  // True as soon as row number `row` (from 0, the header counted) has begun; line() is then where.
  bool Feed(std::string_view bytes, std::int64_t row) {
    for (const char c : bytes) {
      if (c == '\n' && last_was_cr_) {  // the second half of CRLF
        last_was_cr_ = false;
        continue;
      }
      last_was_cr_ = c == '\r';
      if (!in_quotes_ && (c == '\n' || c == '\r')) {
        EndRow();
      } else if (!row_has_bytes_ && rows_ == row) {
        return true;
      } else {
        FeedField(c);
      }
    }
    return false;
  }
  [[nodiscard]] std::int64_t line() const { return line_; }
  [[nodiscard]] std::int64_t rows() const { return rows_; }  // that have ended
  [[nodiscard]] bool in_quotes() const { return in_quotes_; }

 private:
  void EndRow() {
    if (row_has_bytes_) ++rows_;
    row_has_bytes_ = false;
    field_start_ = true;
    ++line_;
  }
  void FeedField(char c) {
    row_has_bytes_ = true;
    if (c == '\n' || c == '\r') ++line_;  // inside quotes
    if (in_quotes_) {
      in_quotes_ = c != '"';  // "" closes and opens again
      reopens_ = c == '"';
      return;
    }
    in_quotes_ = c == '"' && (field_start_ || reopens_);
    reopens_ = false;
    field_start_ = c == delimiter_;
  }

  char delimiter_;
  std::int64_t rows_ = 0;
  std::int64_t line_ = 1;
  bool in_quotes_ = false;
  bool reopens_ = false;
  bool field_start_ = true;
  bool row_has_bytes_ = false;
  bool last_was_cr_ = false;
};

// Splits the bytes of one file, handed over in pieces, into blocks of rows.
class RowSplitter {
 public:
  RowSplitter(std::string path, CsvOptions options, std::size_t num_columns, std::vector<std::size_t> wanted)
      : path_(std::move(path)),
        options_(std::move(options)),
        num_columns_(static_cast<std::int32_t>(num_columns)),
        wanted_(std::move(wanted)),
        header_left_(options_.header) {}

  // emit(TextBlock) -> bool; false ends early. `final`: no piece follows.
  template <typename Emit>
  Status Feed(std::string_view piece, bool final, const Emit& emit) {
    pending_.append(piece);
    std::size_t used = at_start_ && pending_.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0;
    at_start_ = at_start_ && pending_.size() < kByteOrderMark.size();
    if (at_start_ && !final) return Ok();
    if (final) GM_RETURN_IF_ERROR(CheckQuotesClosed(std::string_view(pending_).substr(used)));
    while (used < pending_.size()) {
      GM_ASSIGN_OR_RETURN(const std::size_t parsed, ParseSome(std::string_view(pending_).substr(used), final, emit));
      if (parsed == 0) break;
      used += parsed;
    }
    pending_.erase(0, used);
    if (ended_) return Ok();
    if (!pending_.empty() && (final || pending_.size() > static_cast<std::size_t>(kMaxRowBytes))) {
      return EndlessRow(row_);
    }
    return Ok();
  }

 private:
  [[nodiscard]] Status EndlessRow(std::int64_t row) const {
    return InvalidInput(Place(path_, LineOfRow(path_, options_, row)) +
                        ": the row that starts here does not end; is a quote not closed?");
  }
  // Arrow's parser takes the end of the file for the end of a quote: a row that swallowed the rest of the file would pass.
  [[nodiscard]] Status CheckQuotesClosed(std::string_view rest) const {
    RowCounter counter(options_.delimiter);
    (void)counter.Feed(rest, -1);
    if (!counter.in_quotes()) return Ok();
    return EndlessRow(row_ + counter.rows() - (header_left_ ? 1 : 0));
  }

  template <typename Emit>
  Result<std::size_t> ParseSome(std::string_view bytes, bool final, const Emit& emit) {
    auto options = ArrowOptions(options_);
    std::optional<std::pair<std::int64_t, std::int32_t>> invalid;  // row, number of its columns
    options.invalid_row_handler = [&](const arrow::csv::InvalidRow& row) {
      invalid.emplace(row.number, row.actual_columns);
      return arrow::csv::InvalidRowResult::Error;
    };
    // Rows are numbered from 0 with -1 for the header, which Arrow's parser takes as "unknown": shifted by one.
    const std::int32_t max_rows = header_left_ ? 1 : kBlockRows;
    auto parser = std::make_shared<arrow::csv::BlockParser>(options, num_columns_, row_ + 1, max_rows);
    std::uint32_t parsed = 0;
    const arrow::Status status = final ? parser->ParseFinal(bytes, &parsed) : parser->Parse(bytes, &parsed);
    if (!status.ok()) return RowError(invalid, status);
    const std::int64_t rows = parser->num_rows();
    if (rows > 0 && header_left_) {
      header_left_ = false;
    } else if (rows > 0) {
      if (!emit(MakeBlock(std::move(parser), rows))) {
        ended_ = true;
        return std::size_t{0};
      }
      row_ += rows;
    }
    return static_cast<std::size_t>(parsed);
  }

  [[nodiscard]] Status RowError(const std::optional<std::pair<std::int64_t, std::int32_t>>& invalid,
                                const arrow::Status& status) const {
    if (!invalid) return InvalidInput(Place(path_, LineOfRow(path_, options_, row_)) + ": " + status.message());
    const std::string place = Place(path_, LineOfRow(path_, options_, invalid->first - 1));
    return InvalidInput(place + ": the row has " + Columns(invalid->second) + ", " +
                        (options_.header ? "the header line " : "data.column_names ") + std::to_string(num_columns_) +
                        "; correct the row, or quote values that contain the separator");
  }

  TextBlock MakeBlock(std::shared_ptr<arrow::csv::BlockParser> parser, std::int64_t rows) const {
    TextBlock block;
    block.first_row = row_;
    block.rows = rows;
    block.columns.resize(wanted_.size());
    for (std::size_t i = 0; i < wanted_.size(); ++i) {
      std::vector<std::string_view>& column = block.columns[i];
      column.reserve(static_cast<std::size_t>(rows));
      const auto take = [&column](const std::uint8_t* data, std::uint32_t size, bool, bool) {
        column.emplace_back(reinterpret_cast<const char*>(data), size);
        return arrow::Status::OK();
      };
      // The visitor never fails.
      (void)parser->VisitColumn(static_cast<std::int32_t>(wanted_[i]), take);
    }
    block.memory = std::move(parser);
    return block;
  }

  std::string path_;
  CsvOptions options_;
  std::int32_t num_columns_;
  std::vector<std::size_t> wanted_;
  std::string pending_;  // bytes not yet split
  std::int64_t row_ = 0;
  bool at_start_ = true;
  bool header_left_;
  bool ended_ = false;
};

class PipelinedCsvSource final : public CsvSource {
 public:
  PipelinedCsvSource(std::unique_ptr<ByteReader> reader, RowSplitter splitter, const std::atomic<bool>* stop)
      : reader_(std::move(reader)), splitter_(std::move(splitter)), stop_(stop) {
    inflate_thread_ = std::thread([this] { InflateAll(); });
    split_thread_ = std::thread([this] { SplitAll(); });
  }
  ~PipelinedCsvSource() override {
    pieces_.Close();
    blocks_.Close();
    inflate_thread_.join();
    split_thread_.join();
  }

  Result<std::optional<TextBlock>> Next() override {
    while (true) {
      std::optional<Result<TextBlock>> block = blocks_.Pop(kPollStop);
      if (stop_ != nullptr && stop_->load()) return Cancelled("stopped while reading the data");
      if (block && !block->ok()) return block->status();
      if (block) return std::optional<TextBlock>(std::move(*block).value());
      if (blocks_.drained()) return std::optional<TextBlock>();
    }
  }

 private:
  void InflateAll() {
    while (true) {
      std::string piece(kReadBytes, '\0');
      const Result<std::size_t> got = reader_->Read(piece.data(), piece.size());
      if (!got.ok()) {
        pieces_.Push(got.status());
        break;
      }
      piece.resize(*got);
      if (piece.empty() || !pieces_.Push(std::move(piece))) break;
    }
    pieces_.Close();
  }

  void SplitAll() {
    const Status status = SplitPieces();
    if (!status.ok()) blocks_.Push(status);
    blocks_.Close();
    pieces_.Close();
  }

  Status SplitPieces() {
    bool wanted = true;
    const auto emit = [&](TextBlock block) { return wanted = blocks_.Push(std::move(block)); };
    while (wanted) {
      std::optional<Result<std::string>> piece = pieces_.Pop(kPollStop);
      if (piece && !piece->ok()) return piece->status();
      if (piece) {
        GM_RETURN_IF_ERROR(splitter_.Feed(piece->value(), false, emit));
      } else if (pieces_.drained()) {
        return blocks_.closed() ? Ok() : splitter_.Feed("", true, emit);
      }
    }
    return Ok();
  }

  std::unique_ptr<ByteReader> reader_;  // inflate_thread_ only
  RowSplitter splitter_;                // split_thread_ only
  const std::atomic<bool>* stop_;
  BoundedQueue<Result<std::string>> pieces_{kQueuedBlocks};
  BoundedQueue<Result<TextBlock>> blocks_{kQueuedBlocks};
  std::thread inflate_thread_;
  std::thread split_thread_;
};

Status CheckNames(const std::string& path, const std::vector<std::string>& names) {
  arrow::util::InitializeUTF8();
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (arrow::util::ValidateUTF8(names[i])) continue;
    return InvalidInput(path + ":1: the name of column " + std::to_string(i + 1) +
                        " is not UTF-8; convert the file");
  }
  std::vector<std::string> sorted = names;
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice == sorted.end()) return Ok();
  return InvalidInput(path + ":1: two columns are named " + Quoted(*twice) + "; rename one");
}

// The fields of the first row; none when the file has no row at all. `line`: where it starts.
Result<std::vector<std::string>> ReadFirstRow(const std::string& path, const CsvOptions& options) {
  GM_ASSIGN_OR_RETURN(const std::unique_ptr<ByteReader> reader, ByteReader::Open(path));
  std::string bytes;
  bool final = false;
  while (!final && bytes.size() <= static_cast<std::size_t>(kMaxRowBytes)) {
    const std::size_t have = bytes.size();
    bytes.resize(have + kReadBytes);
    GM_ASSIGN_OR_RETURN(const std::size_t got, reader->Read(bytes.data() + have, kReadBytes));
    bytes.resize(have + got);
    final = got < kReadBytes;
    std::string_view view = bytes;
    if (view.starts_with(kByteOrderMark)) view.remove_prefix(kByteOrderMark.size());
    if (final && view.find_first_not_of("\r\n") == std::string_view::npos) break;
    arrow::csv::BlockParser parser(ArrowOptions(options), -1, -1, 1);
    std::uint32_t parsed = 0;
    const arrow::Status status = final ? parser.ParseFinal(view, &parsed) : parser.Parse(view, &parsed);
    if (!status.ok()) return InvalidInput(path + ":1: " + status.message());
    if (parser.num_rows() == 0) continue;
    std::vector<std::string> fields;
    (void)parser.VisitLastRow([&](const std::uint8_t* data, std::uint32_t size, bool, bool) {
      fields.emplace_back(reinterpret_cast<const char*>(data), size);
      return arrow::Status::OK();
    });
    return fields;
  }
  if (bytes.empty()) return InvalidInput(path + ": the file is empty");
  return InvalidInput(path + ":1: no row ends within the file's first " + std::to_string(bytes.size()) + " bytes");
}

}  // namespace

CsvOptions CsvOptionsFor(const DataConfig& data, const std::string& path) {
  CsvOptions options;
  options.header = data.header;
  options.column_names = data.column_names;
  std::string name = path;
  if (IsGzip(name)) name.resize(name.size() - 3);
  const bool tabs = data.format == "tsv" || (data.format == "auto" && (name.ends_with(".tsv") || name.ends_with(".tab")));
  if (tabs) options.delimiter = '\t';
  // .txt says nothing about its separator: its first line does.
  if (data.format == "auto" && name.ends_with(".txt")) {
    CsvOptions tab = options;
    tab.delimiter = '\t';
    const auto fields = ReadFirstRow(path, tab);
    if (fields.ok() && fields->size() > 1) options.delimiter = '\t';
  }
  return options;
}

Result<std::vector<std::string>> ReadHeader(const std::string& path, const CsvOptions& options) {
  GM_ASSIGN_OR_RETURN(std::vector<std::string> fields, ReadFirstRow(path, options));
  if (!options.header) {
    if (fields.size() == options.column_names.size()) return options.column_names;
    return InvalidInput(Place(path, LineOfRow(path, options, 0)) + ": the row has " +
                        Columns(static_cast<std::int64_t>(fields.size())) + ", data.column_names " +
                        std::to_string(options.column_names.size()));
  }
  GM_RETURN_IF_ERROR(CheckNames(path, fields));
  return fields;
}

Result<std::unique_ptr<CsvSource>> CsvSource::Open(const std::string& path, const CsvOptions& options,
                                                   std::size_t num_columns, const std::vector<std::size_t>& wanted,
                                                   const std::atomic<bool>* stop) {
  GM_ASSIGN_OR_RETURN(std::unique_ptr<ByteReader> reader, ByteReader::Open(path));
  return std::unique_ptr<CsvSource>(std::make_unique<PipelinedCsvSource>(
      std::move(reader), RowSplitter(path, options, num_columns, wanted), stop));
}

std::int64_t LineOfRow(const std::string& path, const CsvOptions& options, std::int64_t row) {
  const auto reader = ByteReader::Open(path);
  if (!reader.ok()) return 0;
  RowCounter counter(options.delimiter);
  std::string bytes(kReadBytes, '\0');
  bool at_start = true;
  while (true) {
    const Result<std::size_t> got = (*reader)->Read(bytes.data(), bytes.size());
    if (!got.ok() || *got == 0) return 0;
    std::string_view view(bytes.data(), *got);
    if (at_start && view.starts_with(kByteOrderMark)) view.remove_prefix(kByteOrderMark.size());
    at_start = false;
    if (counter.Feed(view, row + (options.header ? 1 : 0))) return counter.line();
  }
}

}  // namespace gatemill::data
