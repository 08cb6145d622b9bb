// Bad input: exit code 2, one clear message that says where, and nothing written.

#include <gtest/gtest.h>

#include <functional>
#include <ostream>

#include "common/file.h"
#include "tests/launcher/commands.h"
#include "tests/launcher/small_data.h"

namespace gatemill::launcher {
namespace {

struct BadInput {
  std::string name;
  std::function<void(const TempDir&)> spoil;      // makes the files bad; may be null
  std::vector<std::string> sets;                  // --set overrides that make the configuration bad
  std::vector<std::string> expected;              // each stands in the message; {dir} is the test's directory
};

void PrintTo(const BadInput& input, std::ostream* out) { *out << input.name; }

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

constexpr const char* kHeader = "user,item,tags,price,click,buy\n";
constexpr const char* kGoodRow = "u1,2,t1|t2,5.5,1,0\n";

std::function<void(const TempDir&)> TrainIs(const std::string& contents) {
  return [contents](const TempDir& dir) { (void)dir.Write("train.csv", contents); };
}

// A row appended after `rows` good ones: its line is rows + 2.
std::function<void(const TempDir&)> TrainHasRow(const std::string& row) {
  return TrainIs(std::string(kHeader) + kGoodRow + kGoodRow + row + kGoodRow);
}

std::function<void(const TempDir&)> ConfigHas(const std::string& from, const std::string& to) {
  return [from, to](const TempDir& dir) {
    const std::string config = *ReadFile(dir.path() + "/config.yaml");
    (void)dir.Write("config.yaml", Replaced(config, from, to));
  };
}

std::vector<BadInput> Cases() {
  return {
      {"MissingFile", nullptr, {"data.train=nowhere.csv"}, {"{dir}/nowhere.csv"}},
      {"MissingTestFile", nullptr, {"data.test=later.csv"}, {"{dir}/later.csv"}},
      {"NoGpu", nullptr, {"train.device=cuda"}, {"train.device"}},
      {"MissingConfig", [](const TempDir& dir) { (void)RemoveTree(dir.path() + "/config.yaml"); }, {}, {"{dir}/config.yaml"}},
      {"EmptyFile", TrainIs(""), {}, {"{dir}/train.csv", "empty"}},
      {"HeaderOnly", TrainIs(kHeader), {}, {"no rows"}},
      {"TruncatedGz",
       [](const TempDir& dir) {
         const Finished zipped = RunProgram({"gzip", "-k", dir.path() + "/train.csv"}, 10);
         ASSERT_EQ(zipped.exit_code, 0);
         const std::string bytes = *ReadFile(dir.path() + "/train.csv.gz");
         (void)dir.Write("cut.csv.gz", bytes.substr(0, bytes.size() / 2));
       },
       {"data.train=cut.csv.gz"},
       {"{dir}/cut.csv.gz", "runcated"}},
      {"TooFewColumns", TrainHasRow("u1,2,t1,5.5,1\n"), {}, {"{dir}/train.csv:4", "5", "6"}},
      {"TooManyColumns", TrainHasRow("u1,2,t1,5.5,1,0,9\n"), {}, {"{dir}/train.csv:4", "7", "6"}},
      {"NotANumber", TrainHasRow("u1,2,t1,cheap,1,0\n"), {}, {"{dir}/train.csv:4", "price", "cheap"}},
      {"LabelOutside", TrainHasRow("u1,2,t1,5,2,0\n"), {}, {"{dir}/train.csv:4", "click", "2"}},
      {"LabelNaN", TrainHasRow("u1,2,t1,5,nan,0\n"), {}, {"{dir}/train.csv:4", "click", "nan"}},
      {"LabelMissing", TrainHasRow("u1,2,t1,5,,0\n"), {}, {"{dir}/train.csv:4", "click"}},
      {"UnknownColumn", ConfigHas("[user, item]", "[user, itme]"), {}, {"config.yaml:", "itme", "item"}},
      {"UnknownKey", ConfigHas("num_expert:", "num_experts:"), {}, {"config.yaml:", "num_experts", "num_expert"}},
      {"ForeignKey", ConfigHas("seed: 1", "lr_rate: 1"), {}, {"config.yaml:", "lr_rate", "lr"}},
      {"WrongType", ConfigHas("num_epochs: 3", "num_epochs: many"), {}, {"config.yaml:", "num_epochs", "many"}},
      {"NoExperts", nullptr, {"model.num_expert=0"}, {"num_expert", "0"}},
      {"NoBatch", nullptr, {"train.global_batch_size=0"}, {"global_batch_size", "0"}},
      {"TooManyExperts", nullptr, {"model.num_expert=1000000000"}, {"num_expert", "1000000000"}},
      {"TwoDimsForOneTable",
       ConfigHas("  - {columns: tags, type: sparse,", "  - {columns: tags, table: user, type: sparse,"),
       {},
       {"config.yaml:", "user", "3", "4"}},
      {"BrokenYaml", [](const TempDir& dir) { (void)dir.Write("config.yaml", "data: [unclosed\n"); }, {}, {"config.yaml:"}},
      {"UnwritableRunDir",
       [](const TempDir& dir) { (void)dir.Write("run", "a file stands where the run directory should be"); },
       {},
       {"{dir}/run"}},
      {"BudgetTooSmall", nullptr, {"ps.memory_budget=4MiB"}, {"config.yaml", "ps.memory_budget", "4MiB", "need at least 1"}},
      {"BudgetOfShardsTooSmall", nullptr, {"ps.memory_budget=32MiB", "ps.threads=4"}, {"ps.memory_budget", "32MiB", "4 shards"}},
      {"ImpossiblePsDir",
       [](const TempDir& dir) { (void)dir.Write("file", "no directory"); },
       {"ps.dir={dir}/file/rows"},
       {"config.yaml", "ps.dir", "{dir}/file/rows", "{dir}/file is no directory"}},
      {"BudgetBelowThreads", nullptr, {"ps.memory_budget=2", "ps.threads=4"}, {"ps.memory_budget", "too small"}},
  };
}

class BadInputTest : public ::testing::TestWithParam<BadInput> {};

TEST_P(BadInputTest, ExitsWithTwoAndSaysWhere) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 100);
  if (GetParam().spoil) GetParam().spoil(dir);
  const bool run_exists = FileExists(dir.path() + "/run");
  std::vector<std::string> command{Binary(), "train", config, "--run-dir", dir.path() + "/run", "--json"};
  for (const std::string& set : GetParam().sets) {
    command.emplace_back("--set");
    command.push_back(Replaced(set, "{dir}", dir.path()));
  }
  const Finished done = RunProgram(command, 30);
  EXPECT_EQ(done.exit_code, 2) << done.err;
  EXPECT_EQ(done.out, "");
  for (const std::string& expected : GetParam().expected) {
    EXPECT_NE(done.err.find(Replaced(expected, "{dir}", dir.path())), std::string::npos)
        << "expected: " << expected << "\nmessage: " << done.err;
  }
  EXPECT_EQ(FileExists(dir.path() + "/run"), run_exists);
}

INSTANTIATE_TEST_SUITE_P(Train, BadInputTest, ::testing::ValuesIn(Cases()),
                         [](const auto& test) { return test.param.name; });

TEST(BadInput, CheckSaysThatABudgetIsTooSmall) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 100);
  const Finished done = RunProgram({Binary(), "check", config, "--set", "ps.memory_budget=4MiB"}, 30);
  EXPECT_EQ(done.exit_code, 2) << done.err;
  EXPECT_NE(done.err.find("need at least"), std::string::npos) << done.err;
}

TEST(BadInput, UnderMpirunTheMessageStandsOnce) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 100);
  (void)dir.Write("train.csv", std::string(kHeader) + "u1,2,t1,cheap,1,0\n");
  const Finished done = RunProgram(Mpirun(3, {Binary(), "train", config, "--run-dir", dir.path() + "/run"}), 60);
  EXPECT_EQ(done.exit_code, 2) << done.err;
  const std::size_t first = done.err.find("cheap");
  ASSERT_NE(first, std::string::npos) << done.err;
  EXPECT_EQ(done.err.find("cheap", first + 1), std::string::npos) << done.err;
  EXPECT_FALSE(FileExists(dir.path() + "/run"));
}

TEST(BadInput, TooManyServers) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 100);
  for (const std::vector<std::string>& prefix : {std::vector<std::string>{}, Mpirun(2, {})}) {
    std::vector<std::string> command = prefix;
    for (const std::string& word : {Binary(), std::string("train"), config, std::string("--servers"), std::string("2")}) {
      command.push_back(word);
    }
    const Finished done = RunProgram(command, 60);
    EXPECT_EQ(done.exit_code, 2) << done.err;
    EXPECT_NE(done.err.find("--servers"), std::string::npos) << done.err;
  }
}

TEST(BadInput, ACheckpointThatIsNone) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 100);
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{Binary(), "eval", dir.path(), "--data", dir.path() + "/test.csv"},
        {Binary(), "predict", dir.path(), "--data", dir.path() + "/test.csv", "--output", dir.path() + "/p.csv"},
        {Binary(), "inspect", dir.path(), "summary"},
        {Binary(), "export", dir.path(), "--format", "safetensors", "--output", dir.path() + "/m.safetensors"},
        {Binary(), "train", config, "--resume", dir.path()}}) {
    const Finished done = RunProgram(command, 30);
    EXPECT_EQ(done.exit_code, 2) << command[1] << ": " << done.err;
    EXPECT_NE(done.err.find(dir.path() + " is neither a run nor a checkpoint"), std::string::npos) << done.err;
  }
  EXPECT_FALSE(FileExists(dir.path() + "/p.csv"));
  EXPECT_FALSE(FileExists(dir.path() + "/m.safetensors"));
}

TEST(BadInput, OutputsAreCheckedBeforeTheWork) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 200);
  const std::string run = dir.path() + "/run";
  ASSERT_EQ(RunProgram({Binary(), "train", config, "--run-dir", run, "--set", "train.num_epochs=1"}, 60).exit_code, 0);
  const std::string test = dir.path() + "/test.csv";
  for (const std::string& output : {dir.path() + "/none/p.csv", dir.path() + "/none/p.parquet", dir.path() + "/p.txt"}) {
    const Finished done = RunProgram({Binary(), "predict", run, "--data", test, "--output", output}, 30);
    EXPECT_EQ(done.exit_code, 2) << done.err;
    EXPECT_NE(done.err.find(output), std::string::npos) << done.err;
  }
  const Finished exported =
      RunProgram({Binary(), "export", run, "--format", "safetensors", "--output", dir.path() + "/none/m"}, 30);
  EXPECT_EQ(exported.exit_code, 2) << exported.err;
  EXPECT_EQ(RunProgram({Binary(), "eval", run, "--data", ""}, 30).exit_code, 2);
  // A value in any encoding can be asked for.
  const Finished row =
      RunProgram({Binary(), "inspect", run, "row", "--feature", "user", "--value", "caf\xe9", "--json"}, 30);
  EXPECT_EQ(row.exit_code, 0) << row.err;
  EXPECT_NE(row.out.find("\"found\":false"), std::string::npos) << row.out;
}

TEST(BadInput, AResumeThatCannotBeKeepsTheRunAsItIs) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 200);
  const std::string run = dir.path() + "/run";
  ASSERT_EQ(RunProgram({Binary(), "train", config, "--run-dir", run, "--set", "train.num_epochs=1"}, 60).exit_code, 0);
  const std::string before = *ReadFile(run + "/config.yaml");
  const Finished done = RunProgram({Binary(), "train", config, "--run-dir", run, "--resume", "auto", "--set",
                                    "train.num_epochs=2", "--set", "model.num_expert=3"},
                                   60);
  EXPECT_EQ(done.exit_code, 2) << done.err;
  EXPECT_EQ(*ReadFile(run + "/config.yaml"), before);
  const Finished nowhere = RunProgram({Binary(), "train", config, "--resume", "auto"}, 60);
  EXPECT_EQ(nowhere.exit_code, 2) << nowhere.err;
  EXPECT_NE(nowhere.err.find("--run-dir"), std::string::npos) << nowhere.err;
}

TEST(BadInput, APredictionThatIsNoNumberNamesTaskAndSample) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 200);
  const std::string run = dir.path() + "/run";
  ASSERT_EQ(RunProgram({Binary(), "train", config, "--run-dir", run, "--set", "train.num_epochs=1", "--set",
                        "features.2.transform=none"}, 60).exit_code, 0);
  const std::string infinite = dir.Write("infinite.csv", std::string(kHeader) + kGoodRow + "u1,2,t1,1e39,1,0\n");
  const Finished refused = RunProgram({Binary(), "eval", run, "--data", infinite}, 30);
  EXPECT_EQ(refused.exit_code, 1) << refused.err;
  EXPECT_NE(refused.err.find("for sample 1 is not a number"), std::string::npos) << refused.err;
}

TEST(BadInput, ADamagedCheckpointIsNamedAndNotUsed) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir, 200);
  const std::string run = dir.path() + "/run";
  ASSERT_EQ(RunProgram({Binary(), "train", config, "--run-dir", run, "--set", "train.num_epochs=1"}, 60).exit_code, 0);
  const std::string dense = run + "/checkpoints/best/dense.safetensors";
  const std::string bytes = *ReadFile(dense);
  ASSERT_TRUE(WriteFileAtomic(dense, bytes.substr(0, bytes.size() - 1)).ok());
  const Finished done = RunProgram({Binary(), "eval", run, "--data", dir.path() + "/test.csv"}, 30);
  EXPECT_EQ(done.exit_code, 1);
  EXPECT_NE(done.err.find("dense.safetensors"), std::string::npos) << done.err;
}

TEST(BadInput, WrongCommandLines) {
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{Binary()}, {Binary(), "trian"}, {Binary(), "train"}, {Binary(), "train", "x", "--nosuch"},
        {Binary(), "eval", "x"}, {Binary(), "export", "x", "--format", "pickle", "--output", "y"}}) {
    const Finished done = RunProgram(command, 30);
    EXPECT_EQ(done.exit_code, 2) << done.err;
    EXPECT_NE(done.err, "");
    EXPECT_EQ(done.out, "");
  }
}

}  // namespace
}  // namespace gatemill::launcher
