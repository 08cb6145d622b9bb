#include "worker/data/table_writer.h"

#include <arrow/api.h>
#include <arrow/io/file.h>
#include <gtest/gtest.h>
#include <parquet/arrow/reader.h>

#include <limits>

#include "common/file.h"
#include "tests/temp_dir.h"

namespace gatemill::data {
namespace {

const std::vector<OutputColumn>& SomeColumns() {
  static const std::vector<OutputColumn> columns{
      {.name = "id", .values = std::vector<std::string>{"plain", "a,b", "say \"hi\"", "two\nlines", ""}},
      {.name = "click, score", .values = std::vector<float>{0.1F, 1.0F, 1e-7F, std::numeric_limits<float>::min(), 0.33333334F}}};
  return columns;
}

TEST(TableWriter, CsvQuotesWhatNeedsItAndKeepsEveryBitOfANumber) {
  const TempDir dir;
  const std::string path = dir.path() + "/out.csv";
  ASSERT_TRUE(WriteTable(path, SomeColumns()).ok());
  EXPECT_EQ(*ReadFile(path), "id,\"click, score\"\nplain,0.1\n\"a,b\",1\n\"say \"\"hi\"\"\",1e-07\n\"two\nlines\",1.1754944e-38\n,0.33333334\n");
}

TEST(TableWriter, ParquetReadsBackWithItsTypesAndValues) {
  const TempDir dir;
  const std::string path = dir.path() + "/out.parquet";
  ASSERT_TRUE(WriteTable(path, SomeColumns()).ok());
  EXPECT_FALSE(FileExists(path + ".tmp"));
  const auto file = arrow::io::ReadableFile::Open(path);
  ASSERT_TRUE(file.ok());
  auto reader = parquet::arrow::OpenFile(*file, arrow::default_memory_pool());
  ASSERT_TRUE(reader.ok()) << reader.status().ToString();
  const auto read = (*reader)->ReadTable();
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  const std::shared_ptr<arrow::Table>& table = *read;
  ASSERT_EQ(table->num_columns(), 2);
  ASSERT_EQ(table->num_rows(), 5);
  EXPECT_EQ(table->field(0)->name(), "id");
  EXPECT_EQ(table->field(1)->name(), "click, score");
  ASSERT_EQ(table->column(0)->type()->id(), arrow::Type::STRING);
  ASSERT_EQ(table->column(1)->type()->id(), arrow::Type::FLOAT);
  const auto ids = std::static_pointer_cast<arrow::StringArray>(table->column(0)->chunk(0));
  const auto scores = std::static_pointer_cast<arrow::FloatArray>(table->column(1)->chunk(0));
  for (std::int64_t i = 0; i < 5; ++i) {
    const auto at = static_cast<std::size_t>(i);
    EXPECT_EQ(ids->GetString(i), std::get<std::vector<std::string>>(SomeColumns()[0].values)[at]);
    EXPECT_EQ(scores->Value(i), std::get<std::vector<float>>(SomeColumns()[1].values)[at]);
  }
}

TEST(TableWriter, AnExistingFileIsReplacedWhole) {
  const TempDir dir;
  for (const std::string name : {"/out.csv", "/out.parquet"}) {
    const std::string path = dir.Write(name.substr(1), std::string(100000, 'x'));
    ASSERT_TRUE(WriteTable(path, {{.name = "a", .values = std::vector<float>{1.0F}}}).ok());
    EXPECT_LT(*FileSize(path), 5000U);
  }
}

TEST(TableWriter, AnotherEndingOrAnUnwritablePlaceIsTheUsersMistake) {
  const TempDir dir;
  EXPECT_EQ(CheckOutputPath(dir.path() + "/out.txt").code(), Code::kInvalidInput);
  EXPECT_EQ(CheckOutputPath(dir.path() + "/missing/out.csv").code(), Code::kInvalidInput);
  EXPECT_EQ(WriteTable(dir.path() + "/missing/out.parquet", SomeColumns()).code(), Code::kInvalidInput);
  EXPECT_TRUE(CheckOutputPath(dir.path() + "/out.parquet").ok());
  EXPECT_FALSE(FileExists(dir.path() + "/out.parquet")) << "asking writes nothing";
}

}  // namespace
}  // namespace gatemill::data
