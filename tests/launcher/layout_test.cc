// A run that goes on with other servers, other workers and less memory than it began with.

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "common/file.h"
#include "tests/launcher/launch_fixture.h"
#include "tests/launcher/small_data.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

class LayoutTest : public LaunchFixture {
 protected:
  using LaunchFixture::LaunchFixture;

  [[nodiscard]] std::vector<std::string> GoOn(const Layout& layout, std::vector<std::string> train = {}) const {
    train.insert(train.end(), {"--resume", "auto"});
    return LaunchOf(layout, run_, {}, train);
  }
  // Trains for some steps more; the job is asked to leave then. Returns the step it leaves at.
  int TrainAPart(const Layout& layout, int steps) const {
    Process launch(GoOn(layout));
    EXPECT_TRUE(AwaitCheckpoint(&launch, NewestStep() + steps)) << launch.err();
    ::kill(launch.pid(), SIGTERM);
    const Finished done = Finish(&launch, kSeconds);
    EXPECT_EQ(done.exit_code, 0) << done.err;
    const json result = json::parse(LastLine(done.out), nullptr, false);
    EXPECT_TRUE(result.is_object() && result.value("left_early", false)) << done.out;
    return result.is_object() ? result.value("steps", 0) : 0;
  }
};

// Every epoch is 60 steps.
class ServersTest : public LayoutTest {
 protected:
  ServersTest()
      : LayoutTest({.servers = 2, .workers = 2},
                   {"--set", "train.num_epochs=8", "--set", "train.checkpoint={every_steps: 20, every_epochs: 0}"},
                   WriteSpillingJob) {}

  // With the smallest budget that works: a refusal says how much is needed, before training or, for rows on disk, in it.
  [[nodiscard]] Finished GoOnWithLittleMemory(const Layout& layout) const {
    std::string budget = "1MiB";
    Finished done;
    for (int tries = 0; tries < 4; ++tries) {
      done = RunProgram(GoOn(layout, {"--set", "ps.memory_budget=" + budget}), kSeconds);
      for (const std::string before : {"need at least ", "Raise it to "}) {
        const std::size_t at = done.err.find(before);
        if (at != std::string::npos) budget = std::to_string(std::atoi(done.err.c_str() + at + before.size())) + "MiB";
      }
      if (done.exit_code != 2) break;
    }
    std::printf("ps.memory_budget=%s\n", budget.c_str());
    return done;
  }
};

TEST_F(ServersTest, ThreeThenOneThenLittleMemoryGiveTheSameBitsAsTwo) {
  const int total = 8 * 60;
  int step = 0;
  for (const int servers : {2, 3}) {
    const int left_at = TrainAPart({.servers = servers, .workers = 2}, 40);
    EXPECT_GT(left_at, step);
    step = left_at;
  }
  // All processes in one moment, so that nobody cleans up: less servers go on than have left rows in the run.
  {
    Process launch(GoOn({.servers = 3, .workers = 2}));
    ASSERT_TRUE(AwaitCheckpoint(&launch, step + 20)) << launch.err();
    std::set<std::string> left = SharedMemory();
    for (const pid_t stopped : OwnProcesses()) ::kill(stopped, SIGSTOP);
    for (const pid_t killed : OwnProcesses()) ::kill(killed, SIGKILL);
    (void)Finish(&launch, kSeconds);
    for (const std::string& name : Scratch()) left.insert(dir_.path() + "/" + name);
    for (const std::string& path : left) EXPECT_TRUE(RemoveTree(path).ok()) << path;
    ASSERT_TRUE(FileExists(run_ + "/ps-2"));
  }
  step = TrainAPart({.servers = 1, .workers = 2}, 40);
  EXPECT_LT(step, total);
  const Ended parts = EndOf(run_, GoOnWithLittleMemory({.servers = 1, .workers = 2}));
  const json memory = parts.result.value("memory", json::object());
  EXPECT_GT(memory.value("rows_written", 0), 0);
  EXPECT_GT(memory.value("rows_read_back", 0), 0);
  EXPECT_LT(memory.value("rows_in_memory", 0), memory.value("rows", 0) / 2);

  const std::string other = dir_.path() + "/undisturbed";
  const Ended whole = EndOf(other, RunProgram(LaunchOf({.servers = 2, .workers = 2}, other, {}, {}), kSeconds));
  EXPECT_EQ(whole.result.value("steps", 0), total);
  ExpectSame(parts, whole);
}

constexpr int kSamples = 40'000;

// One epoch, in which each sample has a value of its own.
class WorkersTest : public LayoutTest {
 protected:
  WorkersTest()
      : LayoutTest({.servers = 1, .workers = 3},
                   {"--set", "train.num_epochs=1", "--set", "train.checkpoint={every_steps: 50, every_epochs: 0}"}, WriteJob) {}

  static std::string WriteJob(const TempDir& dir) {
    const std::string config = WriteSmallJob(dir, kSamples);
    for (const char* part : {"train", "valid", "test"}) {
      const std::string file = std::string(part) + ".csv";
      std::istringstream lines(ReadIfThere(dir.path() + "/" + file));
      std::string numbered;
      int number = 0;
      for (std::string line; std::getline(lines, line); ++number) {
        numbered += line + (number == 0 ? ",sample" : "," + std::string(part) + std::to_string(number)) + "\n";
      }
      dir.Write(file, numbered);
    }
    std::string text = ReadIfThere(config);
    const std::string features = "features:\n";
    text.insert(text.find(features) + features.size(), "  - {columns: sample, type: sparse, embedding_dim: 1}\n");
    return dir.Write("config.yaml", text);
  }
};

TEST_F(WorkersTest, ThreeThenTwoTrainEverySampleOnceAndTheModelIsAsGood) {
  const int left_at = TrainAPart({.servers = 1, .workers = 3}, 100);
  const int total = kSamples / 64;
  EXPECT_GT(left_at, 0);
  EXPECT_LT(left_at, total);
  const Ended parts = EndOf(run_, RunProgram(GoOn({.servers = 1, .workers = 2}), kSeconds));
  EXPECT_EQ(parts.result.value("steps", 0), total);
  EXPECT_EQ(parts.result.value("samples", 0), kSamples);
  const Finished inspected = RunProgram({Binary(), "inspect", run_, "summary", "--json"}, kSeconds);
  const json summary = json::parse(LastLine(inspected.out), nullptr, false);
  ASSERT_TRUE(summary.is_object()) << inspected.err;
  const auto& tables = summary.at("tables");
  const auto samples = std::find_if(tables.begin(), tables.end(), [](const json& table) { return table.at("table") == "sample"; });
  ASSERT_NE(samples, tables.end()) << summary;
  EXPECT_EQ(samples->at("rows"), kSamples) << "every sample was trained";
  EXPECT_EQ(samples->at("updates_per_row"), 1.0) << "and none of them twice";

  const std::string other = dir_.path() + "/undisturbed";
  const Ended whole = EndOf(other, RunProgram(LaunchOf({.servers = 1, .workers = 3}, other, {}, {}), kSeconds));
  EXPECT_EQ(parts.result.value("samples", 0), whole.result.value("samples", 0));
  for (const char* part : {"tasks", "test"}) {
    for (const char* task : {"click", "buy"}) {
      const double auc = parts.result.at(part).at(task).at("auc").get<double>();
      const double whole_auc = whole.result.at(part).at(task).at("auc").get<double>();
      EXPECT_NEAR(auc, whole_auc, 0.002) << part << " " << task;
      std::printf("%s %s: auc %.5f, undisturbed %.5f\n", part, task, auc, whole_auc);
    }
  }
}

}  // namespace
}  // namespace gatemill::launcher
