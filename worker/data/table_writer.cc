#include "worker/data/table_writer.h"

#include <arrow/api.h>
#include <arrow/io/file.h>
#include <parquet/arrow/writer.h>

#include <array>
#include <charconv>
#include <filesystem>
#include <memory>

#include "common/file.h"

namespace gatemill::data {
namespace {

constexpr std::int64_t kRowGroupRows = 1 << 20;

bool IsParquet(const std::string& path) { return path.ends_with(".parquet"); }

std::size_t RowsOf(const OutputColumn& column) {
  return std::visit([](const auto& values) { return values.size(); }, column.values);
}

void AppendText(const std::string& text, std::string* line) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) {
    *line += text;
    return;
  }
  *line += '"';
  for (const char c : text) {
    if (c == '"') *line += '"';
    *line += c;
  }
  *line += '"';
}

void AppendNumber(float value, std::string* line) {
  std::array<char, 32> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  line->append(buffer.data(), end);
}

std::string ToCsv(const std::vector<OutputColumn>& columns) {
  std::string text;
  for (std::size_t c = 0; c < columns.size(); ++c) {
    if (c > 0) text += ',';
    AppendText(columns[c].name, &text);
  }
  text += '\n';
  const std::size_t rows = columns.empty() ? 0 : RowsOf(columns[0]);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
      if (c > 0) text += ',';
      if (const auto* numbers = std::get_if<std::vector<float>>(&columns[c].values)) {
        AppendNumber((*numbers)[r], &text);
      } else {
        AppendText(std::get<std::vector<std::string>>(columns[c].values)[r], &text);
      }
    }
    text += '\n';
  }
  return text;
}

arrow::Result<std::shared_ptr<arrow::Array>> ToArrow(const OutputColumn& column) {
  if (const auto* numbers = std::get_if<std::vector<float>>(&column.values)) {
    arrow::FloatBuilder builder;
    ARROW_RETURN_NOT_OK(builder.AppendValues(*numbers));
    return builder.Finish();
  }
  arrow::StringBuilder builder;
  ARROW_RETURN_NOT_OK(builder.AppendValues(std::get<std::vector<std::string>>(column.values)));
  return builder.Finish();
}

arrow::Status WriteParquet(const std::string& path, const std::vector<OutputColumn>& columns) {
  arrow::FieldVector fields;
  arrow::ArrayVector arrays;
  for (const OutputColumn& column : columns) {
    ARROW_ASSIGN_OR_RAISE(auto array, ToArrow(column));
    fields.push_back(arrow::field(column.name, array->type()));
    arrays.push_back(std::move(array));
  }
  const auto table = arrow::Table::Make(arrow::schema(fields), arrays);
  ARROW_ASSIGN_OR_RAISE(const auto file, arrow::io::FileOutputStream::Open(path));
  ARROW_RETURN_NOT_OK(parquet::arrow::WriteTable(*table, arrow::default_memory_pool(), file, kRowGroupRows));
  return file->Close();
}

}  // namespace

Status CheckOutputPath(const std::string& path) {
  if (path.ends_with(".csv") || IsParquet(path)) return CheckOutputFile(path);
  return InvalidInput("cannot tell the format of " + path + ": its name must end in .csv or .parquet");
}

Status WriteTable(const std::string& path, const std::vector<OutputColumn>& columns) {
  GM_RETURN_IF_ERROR(CheckOutputPath(path));
  if (!IsParquet(path)) return WriteFileAtomic(path, ToCsv(columns));
  const std::string temporary = path + ".tmp";
  const arrow::Status written = WriteParquet(temporary, columns);
  std::error_code error;
  if (!written.ok()) {
    std::filesystem::remove(temporary, error);
    return InvalidInput("cannot write " + path + ": " + written.ToString());
  }
  std::filesystem::rename(temporary, path, error);
  if (error) return InvalidInput("cannot write " + path + ": " + error.message());
  return Ok();
}

}  // namespace gatemill::data
