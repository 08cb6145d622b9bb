#include "worker/data/dataset.h"

#include <chrono>
#include <cmath>
#include <utility>

#include "common/file.h"
#include "worker/data/columns.h"
#include "worker/data/part_reader.h"
#include "worker/data/transform.h"

namespace gatemill::data {
namespace {

constexpr std::uint64_t kGzipRatio = 6;  // inflated bytes per .gz byte, roughly: logs of text reach 5 to 15

void LogRead(const ReadOptions& options, const PartSpec& spec, const Columns& columns, double seconds) {
  if (options.log == nullptr) return;
  options.log->Info("read " + spec.name + ": " + std::to_string(columns.rows()) + " samples, " +
                    std::to_string(columns.memory_bytes() >> 20U) + " MiB in memory, " +
                    std::to_string(static_cast<int>(seconds * 1000.0)) + " ms");
}

}  // namespace

Result<std::shared_ptr<const Dataset>> ReadDataset(const ReadOptions& options, Part part, const PartConfig* files,
                                                   bool fit, Statistics* statistics) {
  const auto start = std::chrono::steady_clock::now();
  if (!fit) GM_RETURN_IF_ERROR(CheckStatistics(*options.schema, *statistics));
  ColumnBuilder builder(options, {.groups = options.labels && part != Part::kTrain});
  GM_ASSIGN_OR_RETURN(const PartSpec spec, ResolvePart(*options.data, part, files));
  GM_ASSIGN_OR_RETURN(const auto reader, PartReader::Open(*options.data, spec, builder.columns(), options.stop));
  while (true) {
    GM_ASSIGN_OR_RETURN(const std::optional<RowBlock> block, reader->Next());
    if (!block) break;
    GM_RETURN_IF_ERROR(builder.Append(*reader, *block, block->rows, block->first_sample));
  }
  if (fit) *statistics = builder.Fit(options.seed);
  const std::shared_ptr<const Columns> columns = builder.Finish(*statistics);
  LogRead(options, spec, *columns, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return std::shared_ptr<const Dataset>(columns);
}

Result<bool> FitsInMemory(const DataConfig& data, const PartConfig& part) {
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> files, ExpandFiles(data, part, "the data"));
  std::uint64_t bytes = 0;
  for (const std::string& file : files) {
    GM_ASSIGN_OR_RETURN(const std::uint64_t size, FileSize(file));
    bytes += file.ends_with(".gz") ? size * kGzipRatio : size;
  }
  return bytes <= static_cast<std::uint64_t>(data.cache_bytes);
}

Result<Statistics> FitStatistics(const ReadOptions& options) {
  const std::vector<NumberColumn> numbers = NumberColumns(*options.schema);
  const MissingValues missing(options.data->missing);
  std::vector<std::string> columns;
  std::vector<NumberAccumulator> accumulators;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    columns.push_back(numbers[i].column);
    accumulators.emplace_back(numbers[i], kQuantileSample, options.seed, i);
  }
  if (numbers.empty()) return FinishStatistics(*options.schema, accumulators);
  GM_ASSIGN_OR_RETURN(const PartSpec spec, ResolvePart(*options.data, Part::kTrain, nullptr));
  GM_ASSIGN_OR_RETURN(const auto reader, PartReader::Open(*options.data, spec, columns, options.stop));
  while (true) {
    GM_ASSIGN_OR_RETURN(const std::optional<RowBlock> block, reader->Next());
    if (!block) break;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      for (const std::uint32_t row : block->rows) {
        const Result<double> value = NumberOfText(numbers[i], missing, block->text.columns[i][row]);
        if (!value.ok()) return reader->ValueError(*block, row, columns[i], value.status().message());
        if (!std::isnan(*value)) accumulators[i].Add(*value);
      }
    }
  }
  return FinishStatistics(*options.schema, accumulators);
}

Status ReadText(const DataConfig& data, const PartConfig& part, const std::vector<std::string>& columns,
                std::int64_t limit, const VisitText& visit) {
  GM_ASSIGN_OR_RETURN(PartSpec spec, ResolvePart(data, Part::kTrain, &part));
  spec.limit = limit;
  GM_ASSIGN_OR_RETURN(const auto reader, PartReader::Open(data, spec, columns, nullptr));
  std::vector<std::vector<std::string>> values(columns.size());
  while (true) {
    GM_ASSIGN_OR_RETURN(const std::optional<RowBlock> block, reader->Next());
    if (!block) return Ok();
    for (std::size_t c = 0; c < columns.size(); ++c) {
      values[c].clear();
      for (const std::uint32_t row : block->rows) values[c].emplace_back(block->text.columns[c][row]);
    }
    GM_RETURN_IF_ERROR(visit(values));
  }
}

}  // namespace gatemill::data
