// gatemill check: what it says of a configuration, every mistake at once, leaks, and checkpoints that are none.

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/file.h"
#include "tests/launcher/commands.h"
#include "tests/launcher/small_data.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

Finished Check(const std::vector<std::string>& arguments) {
  std::vector<std::string> command{Binary(), "check"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return RunProgram(command, 60);
}

void ExpectSays(const Finished& done, const std::string& part) {
  const std::string said = done.out + done.err;
  EXPECT_NE(said.find(part), std::string::npos) << "expected: " << part << "\nfound: " << said;
}

TEST(CheckTest, SaysWhatWouldBeTrained) {
  const TempDir dir;
  const Finished done = Check({WriteSmallJob(dir), "--json"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  const json said = json::parse(LastLine(done.out));
  EXPECT_EQ(said["model"], "mmoe");
  ASSERT_EQ(said["features"].size(), 5U);
  EXPECT_EQ(said["features"][2],
            (json{{"name", "tags"}, {"column", "tags"}, {"kind", "list"}, {"table", "tags"}, {"dim", 3}, {"x", 8}}));
  EXPECT_EQ(said["features"][3]["kind"], "bucket");
  EXPECT_EQ(said["features"][4]["kind"], "number");
  EXPECT_EQ(said["features"][4]["x"], 13);
  EXPECT_EQ(said["x_dim"], 14);
  ASSERT_EQ(said["tables"].size(), 4U);
  EXPECT_EQ(said["tables"][0]["bytes_per_row"], 4 * (4 + 1) + 32);
  EXPECT_EQ(said["tables"][0]["oov_buckets"], 4);
  // Two experts 14-16-8, two linear gates 14-2, two towers 8-8-1, each with biases.
  EXPECT_EQ(said["parameters"], 2 * (14 * 16 + 16 + 16 * 8 + 8) + 2 * (14 * 2 + 2) + 2 * (8 * 8 + 8 + 8 + 1));
  EXPECT_EQ(said["data"].size(), 3U);
  EXPECT_EQ(said["data"][0]["bytes"], *FileSize(dir.path() + "/train.csv"));
  EXPECT_EQ(said["ps"],
            (json{{"transport", "auto"}, {"wire", "fp32"}, {"threads", 1}, {"memory_budget", 0}, {"dir", ""}}));
  EXPECT_EQ(said["memory"]["dense_bytes"], said["parameters"].get<int>() * 4 * 4);  // value, gradient, two moments
}

TEST(CheckTest, SaysWhenRowsComeAndGo) {
  const TempDir dir;
  const Finished done = Check({WriteSmallJob(dir), "--json", "--set", "tables.tags={admission: 3}", "--set",
                               "tables.price_bucket={eviction: {idle_steps: 100, idle_days: 7, max_rows: 20000, policy: lfu}}"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  const json said = json::parse(LastLine(done.out));
  EXPECT_EQ(said["tables"][0]["limits"], "");
  EXPECT_EQ(said["tables"][2]["limits"], "after 3 steps");
  EXPECT_EQ(said["tables"][3]["limits"], "idle 100 steps; idle 7 days; at most 20000 rows, lfu");
}

TEST(CheckTest, HalfTheBytesOfAnEmbeddingAreCounted) {
  const TempDir dir;
  const Finished done = Check({WriteSmallJob(dir), "--json", "--set", "tables.user.dtype=bf16"});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  const json said = json::parse(LastLine(done.out));
  EXPECT_EQ(said["tables"][0]["dtype"], "bf16");
  EXPECT_EQ(said["tables"][0]["bytes_per_row"], 2 * 4 + 4 + 32);
  EXPECT_EQ(said["tables"][1]["dtype"], "fp32");
  EXPECT_EQ(said["tables"][1]["bytes_per_row"], 4 * (4 + 1) + 32);
}

TEST(CheckTest, TellsAPersonToo) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const Finished done = Check({config});
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_EQ(done.err, "");
  ExpectSays(done, "mmoe, 2 tasks, 5 features, 4 tables");
  ExpectSays(done, "experts.*.0.weight");
  ExpectSays(done, "x: 14 columns, 13 of embeddings and 1 of numbers");
  ExpectSays(done, "parameter servers: a thread each, transport auto, fp32 on the wire; all rows in memory, RocksDB's files in ps-RANK/ of the run");
  const Finished bounded = Check({config, "--set", "ps.memory_budget=64MiB", "--set", "ps.threads=2", "--set", "ps.dir=" + dir.path()});
  ExpectSays(bounded, "2 threads each, transport auto, fp32 on the wire; at most 64.0 MiB of memory each for rows");
  ExpectSays(bounded, "further rows in RocksDB's files in " + dir.path());
}

TEST(CheckTest, NamesMetricsAndFindsTheColumnsOfTheirGroups) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  ExpectSays(Check({config, "--set", "tasks.click.metrics=[auc, {gauc: user}, {ndcg: {by: item, k: 3}}]"}), "auc, gauc, ndcg@3");
  const Finished wrong = Check({config, "--set", "tasks.click.metrics=[{gauc: usre}]"});
  EXPECT_EQ(wrong.exit_code, 2);
  ExpectSays(wrong, "tasks.click.metrics, gauc.by: the data has no column \"usre\"; did you mean \"user\"?");
  const Finished missing = Check({config, "--set", "tasks.click.metrics=gauc"});
  ExpectSays(missing, "gauc.by: is missing; name the column of the groups, such as {gauc: user_id}");
  EXPECT_EQ(std::count(missing.err.begin(), missing.err.end(), '\n'), 1) << missing.err;
}

TEST(CheckTest, ReportsConfigurationColumnsAndFilesTogether) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  const Finished done = Check({config, "--set", "model.num_experts=3", "--set", "train.num_epochs=0", "--set",
                               "features.0.columns=[user, itme]", "--set", "data.test=nowhere.csv"});
  EXPECT_EQ(done.exit_code, 2);
  ExpectSays(done, "--set model.num_experts=3: model.num_experts: unknown key; write num_expert");
  ExpectSays(done, "train.num_epochs: must be 1 to 1000000, found 0");
  ExpectSays(done, "itme");
  ExpectSays(done, dir.path() + "/nowhere.csv");
}

TEST(CheckTest, DataWarnsOfALeak) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  // `seconds` is the click's own trace; `noise` is not.
  std::string text = "user,item,tags,price,seconds,click,buy\n";
  for (int row = 0; row < 400; ++row) {
    const int click = row * 7919 % 13 < 5 ? 1 : 0;
    const int seconds = click == 1 ? 20 + row % 17 : row % 11;
    text += "u" + std::to_string(row % 20) + "," + std::to_string(row % 9) + ",t" + std::to_string(row % 5) + "," +
            std::to_string(row % 31) + ".5," + std::to_string(seconds) + "," + std::to_string(click) + "," +
            std::to_string(row * 31 % 2) + "\n";
  }
  for (const std::string part : {"train.csv", "valid.csv", "test.csv"}) (void)dir.Write(part, text);
  const Finished beside = Check({config, "--data"});
  ASSERT_EQ(beside.exit_code, 0) << beside.err;
  ExpectSays(beside, "warning: column seconds predicts click almost alone");
  ExpectSays(beside, "it is no feature, and should stay none");
  const Finished inside = Check({config, "--data", "--json", "--set", "features.2.columns=seconds"});
  ASSERT_EQ(inside.exit_code, 0) << inside.err;
  ExpectSays(inside, "take it out of features");
  const json said = json::parse(LastLine(inside.out));
  ASSERT_EQ(said["leaks"].size(), 1U);
  EXPECT_EQ(said["leaks"][0]["column"], "seconds");
  EXPECT_EQ(said["leaks"][0]["feature"], true);
}

TEST(CheckTest, DataFindsTextInNumbersAndLabels) {
  const TempDir dir;
  const std::string config = WriteSmallJob(dir);
  (void)dir.Write("train.csv", "user,item,tags,price,click,buy\nu1,1,t1,cheap,1,0\nu2,2,t2,3.5,0,7\n");
  const Finished done = Check({config, "--data"});
  EXPECT_EQ(done.exit_code, 2);
  ExpectSays(done, "column price has text such as \"");
  ExpectSays(done, "label buy of task buy has values other than 0 and 1");
}

// A flipped bit among the rows: what is quick does not see it, --full does, and from then on nobody uses the checkpoint.
TEST(CheckTest, FullReadsTheRowsOfACheckpointAndMarksWhatIsDamaged) {
  const TempDir dir;
  const std::string run = dir.path() + "/run";
  const Finished trained = RunProgram({Binary(), "train", WriteSmallJob(dir), "--run-dir", run}, 60);
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  const std::string checkpoint = run + "/checkpoints/" + ListDir(run + "/checkpoints").value().back();
  EXPECT_EQ(Check({checkpoint}).exit_code, 0);
  ExpectSays(Check({checkpoint, "--full"}), "is whole");
  const std::vector<std::string> files = ListTree(checkpoint).value();
  const auto rows = std::find_if(files.begin(), files.end(), [](const std::string& file) { return file.ends_with(".sst"); });
  ASSERT_NE(rows, files.end());
  const std::string good = ReadFile(checkpoint + "/" + *rows).value();
  std::string bad = good;
  bad[bad.size() / 2] = static_cast<char>(bad[bad.size() / 2] ^ 1);
  ASSERT_TRUE(WriteFileAtomic(checkpoint + "/" + *rows, bad).ok());
  EXPECT_EQ(Check({checkpoint}).exit_code, 0);
  const Finished found = Check({checkpoint, "--full"});
  EXPECT_EQ(found.exit_code, 1);
  ExpectSays(found, *rows);
  const Finished marked = Check({checkpoint});
  EXPECT_EQ(marked.exit_code, 1);
  ExpectSays(marked, "marked as damaged");
  ASSERT_TRUE(WriteFileAtomic(checkpoint + "/" + *rows, good).ok());
  EXPECT_EQ(Check({checkpoint}).exit_code, 1) << "the mark stays until everything is read";
  EXPECT_EQ(Check({checkpoint, "--full"}).exit_code, 0);
  EXPECT_EQ(Check({checkpoint}).exit_code, 0);
  EXPECT_EQ(Check({WriteSmallJob(dir), "--full"}).exit_code, 2);
}

TEST(CheckTest, DirectoriesThatAreNoCheckpoint) {
  const TempDir dir;
  const Finished done = Check({dir.path()});
  EXPECT_EQ(done.exit_code, 2);
  ExpectSays(done, dir.path());
  const Finished data = Check({dir.path(), "--data"});
  EXPECT_EQ(data.exit_code, 2);
  ExpectSays(data, "--data and --set are for a configuration");
}

}  // namespace
}  // namespace gatemill::launcher
