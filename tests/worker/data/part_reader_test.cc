#include "worker/data/part_reader.h"

#include <algorithm>

#include "tests/worker/data/data_testing.h"

namespace gatemill::data {
namespace {

// The first wanted column of every sample of the part, and that samples are numbered without a gap.
Result<std::vector<std::string>> ReadPart(const DataConfig& data, Part part, const PartConfig* files = nullptr,
                                          const std::string& column = "n") {
  GM_ASSIGN_OR_RETURN(const PartSpec spec, ResolvePart(data, part, files));
  GM_ASSIGN_OR_RETURN(const auto reader, PartReader::Open(data, spec, {column}, nullptr));
  std::vector<std::string> values;
  while (true) {
    GM_ASSIGN_OR_RETURN(const std::optional<RowBlock> block, reader->Next());
    if (!block) return values;
    EXPECT_EQ(block->first_sample, values.size());
    for (const std::uint32_t row : block->rows) values.emplace_back(block->text.columns[0][row]);
  }
}

std::string Numbered(int begin, int end) {
  std::string text = "n,user\n";
  for (int i = begin; i < end; ++i) text += std::to_string(i) + ",u" + std::to_string(i % 10) + "\n";
  return text;
}

class PartReaderTest : public testing::Test {
 protected:
  void SetUp() override {
    data_.root = dir_.path();
    dir_.Write("a1.csv", Numbered(0, 60));
    dir_.Write("a2.csv", "user,n\nu0,60\nu1,61\n");  // another order of columns
    data_.train.files = {"a*.csv"};
  }
  std::string Error(Part part, const PartConfig* files = nullptr) {
    const auto values = ReadPart(data_, part, files);
    EXPECT_FALSE(values.ok());
    EXPECT_EQ(values.status().code(), Code::kInvalidInput);
    return values.status().message();
  }
  TempDir dir_;
  DataConfig data_;
};

TEST_F(PartReaderTest, SeveralFilesInOrder) {
  const auto values = ReadPart(data_, Part::kTrain);
  ASSERT_TRUE(values.ok()) << values.status().message();
  ASSERT_EQ(values->size(), 62U);
  EXPECT_EQ((*values)[0], "0");
  EXPECT_EQ((*values)[61], "61");
}

TEST_F(PartReaderTest, WhereThenLimit) {
  data_.train.where = "n >= 10 and user in [u1, u2]";
  data_.limit = 3;
  const auto values = ReadPart(data_, Part::kTrain);
  ASSERT_TRUE(values.ok()) << values.status().message();
  EXPECT_EQ(*values, (std::vector<std::string>{"11", "12", "21"}));
}

TEST_F(PartReaderTest, RowShareCountsWhatPassesWhere) {
  data_.train.where = "n < 50";
  data_.split.ratio = 0.8;
  const auto train = ReadPart(data_, Part::kTrain);
  const auto valid = ReadPart(data_, Part::kValid);
  ASSERT_TRUE(train.ok() && valid.ok());
  EXPECT_EQ(train->size(), 40U);
  EXPECT_EQ(train->back(), "39");
  EXPECT_EQ(valid->size(), 10U);
  EXPECT_EQ(valid->front(), "40");
}

TEST_F(PartReaderTest, TheRestOfASplitCanBeTheTestPart) {
  data_.split = {.ratio = 0.5, .by = "row", .rest = "test"};
  const auto train = ReadPart(data_, Part::kTrain);
  const auto test = ReadPart(data_, Part::kTest);
  ASSERT_TRUE(train.ok() && test.ok());
  EXPECT_EQ(train->back(), "30");
  EXPECT_EQ(test->front(), "31");
  EXPECT_EQ(train->size() + test->size(), 62U);
  EXPECT_TRUE(data_.has_test());
  EXPECT_FALSE(data_.has_valid());
}

TEST_F(PartReaderTest, HashSharesPartTheRows) {
  dir_.Write("a1.csv", Numbered(100, 10'100));
  data_.split = {0.7, "hash"};
  const auto train = ReadPart(data_, Part::kTrain);
  auto all = ReadPart(data_, Part::kValid);
  ASSERT_TRUE(train.ok() && all.ok());
  EXPECT_NEAR(static_cast<double>(train->size()) / 10'002.0, 0.7, 0.02);
  all->insert(all->end(), train->begin(), train->end());
  std::sort(all->begin(), all->end());
  EXPECT_EQ(std::unique(all->begin(), all->end()), all->end());
  EXPECT_EQ(all->size(), 10'002U);
}

TEST_F(PartReaderTest, SplitByColumnKeepsItsValuesTogether) {
  data_.split = {0.5, "user"};
  const auto train = ReadPart(data_, Part::kTrain, nullptr, "user");
  const auto valid = ReadPart(data_, Part::kValid, nullptr, "user");
  ASSERT_TRUE(train.ok() && valid.ok());
  EXPECT_EQ(train->size() + valid->size(), 62U);
  for (const std::string& user : *train) EXPECT_EQ(std::count(valid->begin(), valid->end(), user), 0) << user;
}

TEST_F(PartReaderTest, AValidPartOfItsOwnTurnsTheSplitOff) {
  dir_.Write("v.csv", Numbered(100, 103));
  data_.valid.files = {"v.csv"};
  data_.split.ratio = 0.5;
  EXPECT_EQ(ReadPart(data_, Part::kTrain)->size(), 62U);
  EXPECT_EQ(ReadPart(data_, Part::kValid)->size(), 3U);
}

TEST_F(PartReaderTest, FilesReplaceThePart) {
  dir_.Write("other.csv", Numbered(7, 9));
  PartConfig files;
  files.files = {"other.csv"};
  files.where = "n == 8";
  data_.split.ratio = 0.5;
  EXPECT_EQ(*ReadPart(data_, Part::kValid, &files), (std::vector<std::string>{"8"}));
}

TEST_F(PartReaderTest, ErrorsSayWhatIsMissing) {
  PartConfig files;
  files.files = {"none*.csv"};
  EXPECT_NE(Error(Part::kTrain, &files).find("none*.csv: no such file (the data)"), std::string::npos);
  files.files = {"a1.csv", "b.csv"};
  dir_.Write("b.csv", "m,user\n1,2\n");
  EXPECT_EQ(Error(Part::kTrain, &files), dir_.path() + "/b.csv:1: no column \"n\"; did you mean \"m\"?");
  EXPECT_EQ(Error(Part::kTest), "data.test names no file");
  EXPECT_EQ(Error(Part::kValid), "data.valid names no file");
  data_.train.where = "usr == 1";
  EXPECT_EQ(Error(Part::kTrain),
            "data.train: where: \"usr == 1\", position 1: unknown column \"usr\"; did you mean \"user\"?");
}

TEST_F(PartReaderTest, APartWithoutSamplesIsAnError) {
  const std::string path = dir_.Write("head.csv", "n,user\n");
  PartConfig files;
  files.files = {"head.csv"};
  EXPECT_EQ(Error(Part::kTrain, &files), "the data: " + path + ": no rows after the header line");
  files.files = {"a1.csv"};
  files.where = "n > 1000";
  EXPECT_NE(Error(Part::kTrain, &files).find("none of 60 rows passes where: \"n > 1000\""), std::string::npos);
  data_.split.ratio = 0.999;
  EXPECT_NE(Error(Part::kValid).find("data.split leaves no row of 62"), std::string::npos);
}

TEST_F(PartReaderTest, ABadRowOfTheSecondFileNamesThatFile) {
  const std::string path = dir_.Write("a2.csv", "n,user\n60,u0\n61\n");
  EXPECT_EQ(Error(Part::kTrain).find(path + ":3: the row has 1 column"), 0U);
}

}  // namespace
}  // namespace gatemill::data
