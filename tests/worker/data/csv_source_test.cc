#include "worker/data/csv_source.h"

#include "tests/worker/data/data_testing.h"

namespace gatemill::data {
namespace {

using Rows = std::vector<std::vector<std::string>>;

// All rows of the file, the wanted columns of each; or the status.
Result<Rows> ReadAll(const std::string& path, const CsvOptions& options, std::vector<std::size_t> wanted = {}) {
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> names, ReadHeader(path, options));
  if (wanted.empty()) {
    for (std::size_t i = 0; i < names.size(); ++i) wanted.push_back(i);
  }
  GM_ASSIGN_OR_RETURN(const auto source, CsvSource::Open(path, options, names.size(), wanted, nullptr));
  Rows rows;
  while (true) {
    GM_ASSIGN_OR_RETURN(const std::optional<TextBlock> block, source->Next());
    if (!block) return rows;
    EXPECT_EQ(block->first_row, static_cast<std::int64_t>(rows.size()));
    for (std::int64_t r = 0; r < block->rows; ++r) {
      rows.emplace_back();
      for (const auto& column : block->columns) rows.back().emplace_back(column[static_cast<std::size_t>(r)]);
    }
  }
}

std::string ErrorOf(const std::string& path, const CsvOptions& options = {}) {
  const Result<Rows> rows = ReadAll(path, options);
  EXPECT_FALSE(rows.ok());
  EXPECT_EQ(rows.status().code(), Code::kInvalidInput);
  return rows.status().message();
}

TEST(CsvSourceTest, ReadsPlainAndGzAlike) {
  const TempDir dir;
  std::string text = "a,b\n";
  for (int i = 0; i < 300'000; ++i) text += std::to_string(i) + ",x" + std::to_string(i % 7) + "\n";
  const Result<Rows> plain = ReadAll(dir.Write("f.csv", text), {});
  const Result<Rows> gz = ReadAll(dir.Write("f.csv.gz", Gzip(text)), {});
  ASSERT_TRUE(plain.ok()) << plain.status().message();
  ASSERT_TRUE(gz.ok()) << gz.status().message();
  ASSERT_EQ(plain->size(), 300'000U);
  EXPECT_EQ((*plain)[299'999], (std::vector<std::string>{"299999", "x0"}));
  EXPECT_EQ(*plain, *gz);
}

TEST(CsvSourceTest, WantedColumnsInTheirOrder) {
  const TempDir dir;
  const Result<Rows> rows = ReadAll(dir.Write("f.csv", "a,b,c\n1,2,3\n4,5,6\n"), {}, {2, 0});
  ASSERT_TRUE(rows.ok());
  EXPECT_EQ(*rows, (Rows{{"3", "1"}, {"6", "4"}}));
}

TEST(CsvSourceTest, LineEndsQuotesAndByteOrderMark) {
  const TempDir dir;
  const Rows expected = {{"1", "x,y"}, {"2", "say \"hi\""}, {"3", ""}};
  for (const std::string& text : {std::string("a,b\n1,\"x,y\"\n2,\"say \"\"hi\"\"\"\n3,\n"),
                                  std::string("a,b\r\n1,\"x,y\"\r\n2,\"say \"\"hi\"\"\"\r\n3,"),
                                  std::string("\xEF\xBB\xBF" "a,b\n\n1,\"x,y\"\n\n2,\"say \"\"hi\"\"\"\n3,")}) {
    const std::string path = dir.Write("f.csv", text);
    const Result<Rows> rows = ReadAll(path, {});
    ASSERT_TRUE(rows.ok()) << rows.status().message();
    EXPECT_EQ(*rows, expected);
    EXPECT_EQ((*ReadHeader(path, {}))[0], "a");
  }
}

TEST(CsvSourceTest, NewlinesInsideQuotes) {
  const TempDir dir;
  const Result<Rows> rows = ReadAll(dir.Write("f.csv", "a,b\n1,\"two\nlines\"\n2,x\n"), {});
  ASSERT_TRUE(rows.ok());
  EXPECT_EQ(*rows, (Rows{{"1", "two\nlines"}, {"2", "x"}}));
}

TEST(CsvSourceTest, WithoutHeader) {
  const TempDir dir;
  const std::string path = dir.Write("f.tsv", "1\t2\n3\t4\n");
  DataConfig data;
  data.header = false;
  data.column_names = {"a", "b"};
  const CsvOptions options = CsvOptionsFor(data, path);
  EXPECT_EQ(*ReadHeader(path, options), data.column_names);
  const Result<Rows> rows = ReadAll(path, options);
  ASSERT_TRUE(rows.ok());
  EXPECT_EQ(*rows, (Rows{{"1", "2"}, {"3", "4"}}));
  data.column_names = {"a"};
  EXPECT_EQ(ErrorOf(path, CsvOptionsFor(data, path)), path + ":1: the row has 2 columns, data.column_names 1");
}

TEST(CsvSourceTest, DelimiterByFormatAndExtension) {
  const TempDir dir;
  DataConfig data;
  EXPECT_EQ(CsvOptionsFor(data, "x.csv.gz").delimiter, ',');
  EXPECT_EQ(CsvOptionsFor(data, "x.tsv.gz").delimiter, '\t');
  EXPECT_EQ(CsvOptionsFor(data, dir.Write("tabs.txt", "1\t2\n")).delimiter, '\t');
  EXPECT_EQ(CsvOptionsFor(data, dir.Write("commas.txt", "1,2\n")).delimiter, ',');
  data.format = "tsv";
  EXPECT_EQ(CsvOptionsFor(data, "x.csv").delimiter, '\t');
  data.format = "csv";
  EXPECT_EQ(CsvOptionsFor(data, "x.tsv").delimiter, ',');
}

TEST(CsvSourceTest, MissingEmptyAndBlankFiles) {
  const TempDir dir;
  EXPECT_EQ(ErrorOf(dir.path() + "/none.csv"),
            dir.path() + "/none.csv: no such file; check data.root and the names of the files");
  const std::string empty = dir.Write("empty.csv", "");
  EXPECT_EQ(ErrorOf(empty), empty + ": the file is empty");
  const std::string empty_gz = dir.Write("empty.csv.gz", Gzip(""));
  EXPECT_EQ(ErrorOf(empty_gz), empty_gz + ": the file is empty");
  const std::string blank = dir.Write("blank.csv", "\n\n");
  EXPECT_NE(ErrorOf(blank).find("no row ends"), std::string::npos);
}

TEST(CsvSourceTest, TruncatedAndDamagedGz) {
  const TempDir dir;
  std::string text = "a,b\n";
  for (int i = 0; i < 100'000; ++i) text += std::to_string(i) + ",x\n";
  std::string gz = Gzip(text);
  const std::string cut = dir.Write("cut.csv.gz", gz.substr(0, gz.size() / 2));
  EXPECT_EQ(ErrorOf(cut).find(cut + ": the gzip data is cut short or damaged"), 0U) << ErrorOf(cut);
  const std::string tail = dir.Write("tail.csv.gz", gz.substr(0, gz.size() - 3));
  EXPECT_EQ(ErrorOf(tail).find(tail + ": the gzip data is cut short or damaged"), 0U) << ErrorOf(tail);
  const std::string plain = dir.Write("plain.csv.gz", text);
  EXPECT_EQ(ErrorOf(plain).find(plain + ": the gzip data is cut short or damaged"), 0U) << ErrorOf(plain);
}

TEST(CsvSourceTest, RowsWithTooFewOrTooManyColumnsNameTheirLine) {
  const TempDir dir;
  const std::string few = dir.Write("few.csv", "a,b,c\n1,2,3\n4,5\n6,7,8\n");
  EXPECT_EQ(ErrorOf(few), few + ":3: the row has 2 columns, the header line 3; correct the row, or quote values that "
                                "contain the separator");
  const std::string many = dir.Write("many.csv", "a,b\r\n\r\n1,\"x\r\ny\"\r\n\r\n4,5,6\r\n");
  EXPECT_EQ(ErrorOf(many).find(many + ":6: the row has 3 columns, the header line 2"), 0U) << ErrorOf(many);
  const std::string last = dir.Write("last.csv", "a,b\n1,2\n3");
  EXPECT_EQ(ErrorOf(last).find(last + ":3: the row has 1 column,"), 0U) << ErrorOf(last);
}

TEST(CsvSourceTest, ABadRowFarIntoTheFileNamesItsLine) {
  const TempDir dir;
  std::string text = "a,b\n";
  for (int i = 0; i < 500'000; ++i) text += i == 400'000 ? "7,8,9\n" : "1,2\n";
  const std::string path = dir.Write("far.csv.gz", Gzip(text));
  EXPECT_EQ(ErrorOf(path).find(path + ":400002: the row has 3 columns"), 0U) << ErrorOf(path);
}

TEST(CsvSourceTest, AnOpenQuoteNamesTheLineWhereItsRowStarts) {
  const TempDir dir;
  const std::string path = dir.Write("open.csv", "a,b\n1,2\n3,\"four\n5,6\n");
  const std::string error = ErrorOf(path);
  EXPECT_EQ(error.find(path + ":3: "), 0U) << error;
}

TEST(CsvSourceTest, TwoColumnsOfOneName) {
  const TempDir dir;
  const std::string path = dir.Write("twice.csv", "a,b,a\n1,2,3\n");
  EXPECT_EQ(ErrorOf(path), path + ":1: two columns are named \"a\"; rename one");
}

TEST(CsvSourceTest, ColumnNamesAreUtf8) {
  const TempDir dir;
  for (const char* bad : {"caf\xe9", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\xe2\x82"}) {
    const std::string latin = dir.Write("latin.csv", std::string("a,") + bad + "\n1,2\n");
    EXPECT_EQ(ErrorOf(latin).find(latin + ":1: the name of column 2 is not UTF-8"), 0U) << ErrorOf(latin);
  }
  for (const char* good : {"caf\u00e9", "\u20ac", "\U0001F600", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    const std::string path = dir.Write("good.csv", std::string("a,") + good + "\n1,2\n");
    const auto header = ReadHeader(path, {});
    ASSERT_TRUE(header.ok()) << header.status().message();
    EXPECT_EQ(*header, (std::vector<std::string>{"a", good}));
  }
}

TEST(CsvSourceTest, StopEndsReading) {
  const TempDir dir;
  const std::string path = dir.Write("f.csv", "a\n1\n");
  std::atomic<bool> stop{true};
  const auto source = CsvSource::Open(path, {}, 1, {0}, &stop);
  ASSERT_TRUE(source.ok());
  EXPECT_EQ((*source)->Next().status().code(), Code::kCancelled);
}

TEST(CsvSourceTest, ASourceMayBeLeftEarly) {
  const TempDir dir;
  std::string text = "a\n";
  for (int i = 0; i < 2'000'000; ++i) text += "12345\n";
  const auto source = CsvSource::Open(dir.Write("f.csv", text), {}, 1, {0}, nullptr);
  ASSERT_TRUE(source.ok());
  const auto block = (*source)->Next();
  ASSERT_TRUE(block.ok() && block->has_value());
  EXPECT_EQ((*block)->columns[0][0], "12345");
}

TEST(CsvSourceTest, LineOfRowCountsBlankLinesAndQuotedNewlines) {
  const TempDir dir;
  const std::string path = dir.Write("f.csv", "a,b\n\n1,\"x\n\ny\"\r\n\r\n2,\"q\"\"\n\"\n3,4");
  EXPECT_EQ(LineOfRow(path, {}, -1), 1);
  EXPECT_EQ(LineOfRow(path, {}, 0), 3);
  EXPECT_EQ(LineOfRow(path, {}, 1), 7);
  EXPECT_EQ(LineOfRow(path, {}, 2), 9);
  EXPECT_EQ(LineOfRow(path, {}, 3), 0);
}

}  // namespace
}  // namespace gatemill::data
