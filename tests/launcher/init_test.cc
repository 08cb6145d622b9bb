// gatemill init: a draft that check accepts, and never over a file that exists.

#include <gtest/gtest.h>

#include <algorithm>

#include "common/config.h"
#include "common/file.h"
#include "tests/launcher/commands.h"
#include "tests/launcher/small_data.h"

namespace gatemill::launcher {
namespace {

Finished Init(const std::vector<std::string>& arguments) {
  std::vector<std::string> command{Binary(), "init"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return RunProgram(command, 60);
}

const FeatureConfig* FeatureOf(const Config& config, const std::string& column) {
  for (const FeatureConfig& feature : config.features) {
    if (std::find(feature.columns.begin(), feature.columns.end(), column) != feature.columns.end()) return &feature;
  }
  return nullptr;
}

TEST(InitTest, DraftsWhatCheckAccepts) {
  const TempDir dir;
  const std::string data = dir.Write("train.csv", SmallCsv(2000, 1));
  const std::string path = dir.path() + "/draft.yaml";
  const Finished done = Init({data, "--labels", "click,buy", "--output", path});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  const Result<Config> config = LoadConfig(path, {});
  ASSERT_TRUE(config.ok()) << config.status().message();
  ASSERT_EQ(config->tasks.size(), 2U);
  EXPECT_EQ(config->tasks[1].label_name, "buy");
  EXPECT_EQ(config->tasks[1].loss[0].type, "bce");
  ASSERT_NE(FeatureOf(*config, "price"), nullptr);
  EXPECT_EQ(FeatureOf(*config, "price")->type, FeatureType::kDense);
  ASSERT_NE(FeatureOf(*config, "tags"), nullptr);
  EXPECT_EQ(FeatureOf(*config, "tags")->separator, "|");
  ASSERT_NE(FeatureOf(*config, "user"), nullptr);
  EXPECT_EQ(FeatureOf(*config, "user")->type, FeatureType::kSparse);
  EXPECT_EQ(FeatureOf(*config, "click"), nullptr);
  EXPECT_EQ(RunProgram({Binary(), "check", path}, 60).exit_code, 0);
}

TEST(InitTest, LeaksConstantsAndMissingTexts) {
  const TempDir dir;
  std::string text = "kind,same,seconds,seen,click\n";
  for (int row = 0; row < 400; ++row) {
    const int click = row * 7919 % 13 < 5 ? 1 : 0;
    text += (row % 6 == 0 ? "?" : "k" + std::to_string(row % 6)) + ",1," +
            std::to_string(click == 1 ? 20 + row % 17 : row % 11) + "," + std::to_string(row * 17 % 400) + "," +
            std::to_string(click) + "\n";
  }
  const Finished done = Init({dir.Write("a.csv", text), "--labels", "click"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_NE(done.out.find("# seconds: predicts click almost alone"), std::string::npos) << done.out;
  EXPECT_NE(done.out.find("# same: has one value"), std::string::npos) << done.out;
  const Result<Config> config = ParseConfig(done.out, "draft", {});
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->data.missing, (std::vector<std::string>{"", "?"}));
  EXPECT_EQ(FeatureOf(*config, "seconds"), nullptr);
  EXPECT_EQ(FeatureOf(*config, "same"), nullptr);
  EXPECT_NE(FeatureOf(*config, "kind"), nullptr);
  EXPECT_EQ(config->model.type, "single");
}

// As pandas writes a frame with its index.
TEST(InitTest, AColumnWithoutANameIsLeftOut) {
  const TempDir dir;
  const std::string csv = SmallCsv(200, 1);
  std::string indexed;
  int row = 0;
  for (std::size_t begin = 0; begin < csv.size(); ++row) {
    const std::size_t end = csv.find('\n', begin) + 1;
    indexed += (row == 0 ? std::string() : std::to_string(row % 7)) + "," + csv.substr(begin, end - begin);
    begin = end;
  }
  const Finished done = Init({dir.Write("pandas.csv", indexed), "--labels", "click"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_NE(done.out.find("(a column without a name)"), std::string::npos) << done.out;
}

TEST(InitTest, NeverOverwrites) {
  const TempDir dir;
  const std::string data = dir.Write("train.csv", SmallCsv(200, 1));
  const std::string path = dir.Write("mine.yaml", "my work\n");
  const Finished done = Init({data, "--labels", "click", "--output", path});
  EXPECT_EQ(done.exit_code, 2);
  EXPECT_NE(done.err.find("exists already"), std::string::npos) << done.err;
  EXPECT_EQ(*ReadFile(path), "my work\n");
}

TEST(InitTest, BadLabelsAndFiles) {
  const TempDir dir;
  const std::string data = dir.Write("train.csv", SmallCsv(200, 1));
  const std::string path = dir.path() + "/draft.yaml";
  const Finished unknown = Init({data, "--labels", "clik,user", "--output", path});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_NE(unknown.err.find("there is no column clik; did you mean click?"), std::string::npos) << unknown.err;
  EXPECT_NE(unknown.err.find("label user must be a number"), std::string::npos) << unknown.err;
  EXPECT_FALSE(FileExists(path));
  const Finished unwritable = Init({data, "--labels", "click", "--output", dir.path() + "/nowhere/draft.yaml"});
  EXPECT_EQ(unwritable.exit_code, 2);
  EXPECT_NE(unwritable.err.find("nowhere/draft.yaml"), std::string::npos) << unwritable.err;
  const Finished missing = Init({dir.path() + "/nowhere.csv", "--labels", "click"});
  EXPECT_EQ(missing.exit_code, 2);
  EXPECT_NE(missing.err.find("nowhere.csv"), std::string::npos) << missing.err;
}

TEST(InitTest, FilesWithoutAHeader) {
  const TempDir dir;
  const std::string csv = SmallCsv(500, 1);
  const std::string data = dir.Write("train.csv", csv.substr(csv.find('\n') + 1));
  const Finished done = Init({data, "--labels", "click", "--column-names", "user,item,tags,price,click,buy"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  const Result<Config> config = ParseConfig(done.out, "draft", {});
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_FALSE(config->data.header);
  EXPECT_EQ(config->data.column_names.size(), 6U);
}

}  // namespace
}  // namespace gatemill::launcher
