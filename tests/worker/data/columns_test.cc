#include "worker/data/columns.h"

#include <functional>
#include <set>

#include "tests/worker/data/data_testing.h"

namespace gatemill::data {
namespace {

TEST(KeyDictionaryTest, NumbersKeysInOrderOfAppearance) {
  KeyDictionary dictionary;
  for (std::uint64_t i = 0; i < 100'000; ++i) EXPECT_EQ(dictionary.CodeOf(Mix64(i)), i);
  for (std::uint64_t i = 0; i < 100'000; ++i) EXPECT_EQ(dictionary.CodeOf(Mix64(i)), i);
  EXPECT_EQ(dictionary.keys().size(), 100'000U);
  EXPECT_EQ(dictionary.keys()[77], Mix64(77));
}

TEST(KeyDictionaryTest, EveryKeyIsLegal) {
  KeyDictionary dictionary;
  EXPECT_EQ(dictionary.CodeOf(0), 0U);
  EXPECT_EQ(dictionary.CodeOf(~0ULL), 1U);
  for (std::uint64_t i = 1; i < 1000; ++i) EXPECT_EQ(dictionary.CodeOf(i), i + 1);
  EXPECT_EQ(dictionary.CodeOf(0), 0U);
}

// The status of reading `text` with one dense feature "x" after log1p, a bce label "y" and a weight "w".
class ColumnErrorsTest : public testing::Test {
 protected:
  std::string ErrorOf(const std::string& text, const std::string& loss = "bce") {
    (void)dir_.Write("f.csv", text);
    Config config;
    config.data.train.files = {path_};
    config.data.sample_weight = "w";
    config.tasks = {Task("y", loss)};
    config.features = {Dense({"x"}, {"log1p"}), Sparse({"b"}, 2)};
    config.features[1].bucketize.boundaries = {1.0};
    const Prepared setup(config);
    Statistics statistics;
    const auto dataset = ReadDataset(setup.read, Part::kTrain, nullptr, true, &statistics);
    EXPECT_FALSE(dataset.ok()) << text;
    EXPECT_EQ(dataset.status().code(), Code::kInvalidInput);
    return dataset.status().message();
  }
  TempDir dir_;
  std::string path_ = dir_.path() + "/f.csv";
};

TEST_F(ColumnErrorsTest, TextInADenseColumn) {
  EXPECT_EQ(ErrorOf("y,w,x,b\n1,1,3,1\n\n0,1,many,1\n"),
            path_ + ":4: column \"x\": \"many\" is not a number, which a dense feature needs; correct the value, or add "
                    "it to data.missing, or make the feature sparse");
  EXPECT_EQ(ErrorOf("y,w,x,b\n1,1,nan,1\n").find(path_ + ":2: column \"x\": \"nan\" is not a number"), 0U);
  EXPECT_EQ(ErrorOf("y,w,x,b\n1,1,1,low\n").find(path_ + ":2: column \"b\": \"low\" is not a number"), 0U);
}

TEST_F(ColumnErrorsTest, NoLogarithm) {
  EXPECT_EQ(ErrorOf("y,w,x,b\n1,1,0,1\n1,1,-1,1\n"),
            path_ + ":3: column \"x\": \"-1\" has no log1p; transform log1p needs numbers above -1");
}

TEST_F(ColumnErrorsTest, Labels) {
  for (const std::string& label : std::vector<std::string>{"2", "-1", "0.5", "nan", "", "yes"}) {
    EXPECT_EQ(ErrorOf("y,w,x,b\n1,1,1,1\n" + label + ",1,1,1\n"),
              path_ + ":3: column \"y\": label \"" + label +
                  "\" of task \"y\" is not 0 or 1, which loss bce needs; correct it, or leave the row out with where:");
  }
  for (const std::string& label : std::vector<std::string>{"nan", "inf", "", "x"}) {
    EXPECT_EQ(ErrorOf("y,w,x,b\n" + label + ",1,1,1\n", "mse").find(path_ + ":2: column \"y\": label"), 0U);
  }
}

TEST_F(ColumnErrorsTest, LabelsOfLossesThatNeedThemAboveZero) {
  EXPECT_EQ(ErrorOf("y,w,x,b\n3,1,1,1\n-1,1,1,1\n", "watch_time"),
            path_ + ":3: column \"y\": label \"-1\" of task \"y\" is not a number of at least 0, which its loss or label_transform "
                    "needs; correct it, or leave the row out with where:");
}

TEST_F(ColumnErrorsTest, WeightsAndSpacesOfTasks) {
  const auto error = [&](const std::string& cells, const std::function<void(TaskConfig*)>& change) {
    (void)dir_.Write("f.csv", "y,w,x,b\n1," + cells + "\n");
    Config config;
    config.data.train.files = {path_};
    config.tasks = {Task("y", "bce")};
    change(&config.tasks[0]);
    config.features = {Sparse({"b"}, 2)};
    const Prepared setup(config);
    Statistics statistics;
    const auto dataset = ReadDataset(setup.read, Part::kTrain, nullptr, true, &statistics);
    EXPECT_FALSE(dataset.ok()) << cells;
    return dataset.status().message();
  };
  EXPECT_EQ(error("-1,1,1", [](TaskConfig* task) { task->sample_weight = "w"; }),
            path_ + ":2: column \"w\": sample weight \"-1\" of task \"y\" is not a number of at least 0");
  EXPECT_EQ(error("1,yes,1", [](TaskConfig* task) { task->task_space_indicator_label = "x"; }),
            path_ + ":2: column \"x\": task space indicator \"yes\" of task \"y\" is not a finite number");
}

TEST_F(ColumnErrorsTest, Weights) {
  EXPECT_EQ(ErrorOf("y,w,x,b\n1,-2,1,1\n"),
            path_ + ":2: column \"w\": sample weight \"-2\" is not a number of at least 0");
  EXPECT_EQ(ErrorOf("y,w,x,b\n1,,1,1\n").find(path_ + ":2: column \"w\""), 0U);
}

TEST(ColumnsTest, AppendRowsTranslatesCodes) {
  const TempDir dir;
  Config config = SmallConfig(dir.Write("f.csv", SmallLog(40)));
  config.tasks[0].metrics = {{.type = "gauc", .by = "item"}, {.type = "gauc", .by = "age"}};
  const Prepared setup(config);
  const auto read = [&](const std::string& where) {
    Statistics statistics;
    PartConfig files = setup.config.data.train;
    files.where = where;
    auto dataset = ReadDataset(setup.read, Part::kTest, &files, true, &statistics);
    EXPECT_TRUE(dataset.ok());
    return std::dynamic_pointer_cast<const Columns>(*dataset);
  };
  const auto first = read("age < 28");
  const auto second = read("age >= 28");
  Columns joined(setup.schema);
  std::vector<std::uint32_t> all(second->rows());
  for (std::uint32_t i = 0; i < all.size(); ++i) all[i] = i;
  joined.AppendRows(*second, all);
  joined.AppendRows(*first, std::vector<std::uint32_t>{3, 1});
  ASSERT_EQ(joined.rows(), second->rows() + 2);
  BatchOptions options;
  options.shuffle = false;
  const auto one = [&](std::shared_ptr<const Columns> columns, std::size_t row) {
    auto stream = StreamDataset(std::move(columns), options);
    const std::vector<Batch> batches = TakeAll(stream->get());
    std::vector<std::vector<std::uint64_t>> keys;
    for (std::size_t f = 0; f < 3; ++f) keys.push_back(KeysOf(setup.schema, batches.at(0), f, row));
    const std::vector<std::uint64_t>& groups = batches.at(0).groups;
    for (std::size_t g = 0; g < 2; ++g) keys.push_back({groups.at(g * batches.at(0).rows + row)});
    return keys;
  };
  const auto shared = std::make_shared<const Columns>(joined);
  EXPECT_EQ(one(shared, second->rows()), one(first, 3));
  EXPECT_EQ(one(shared, second->rows() + 1), one(first, 1));
  EXPECT_EQ(one(shared, 5), one(second, 5));
}

}  // namespace
}  // namespace gatemill::data
