// launch with real jobs: what is killed goes on, what must go saves, nothing is left.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/file.h"
#include "tests/launcher/launch_fixture.h"
#include "tests/launcher/small_data.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

// 2 servers and 2 workers, a second or two of training, a checkpoint every 40 steps.
class LaunchTest : public LaunchFixture {
 protected:
  LaunchTest()
      : LaunchFixture({.servers = 2, .workers = 2},
                      {"--set", "train.num_epochs=30", "--set", "train.checkpoint={every_steps: 40, every_epochs: 0}"}) {}
  static constexpr int kSteps = 30 * 32;

  // Every bit of the model that the run ended with.
  static std::string Model(const std::string& run) {
    return Export(run + "/checkpoints/step-000000960", run + ".safetensors");
  }
  // The same of a run that nobody disturbed.
  [[nodiscard]] std::string UndisturbedModel() const {
    const std::string run = dir_.path() + "/undisturbed";
    std::vector<std::string> command = Mpirun(2, {Binary(), "train", config_, "--run-dir", run});
    AddSettings(&command);
    const Finished done = RunProgram(command, kSeconds);
    EXPECT_EQ(done.exit_code, 0) << done.err;
    return Model(run);
  }
  void ExpectFinished(const Finished& done) const {
    ASSERT_EQ(done.exit_code, 0) << done.err;
    EXPECT_EQ(Process::Count(done.out, "\n"), 1) << "the last job alone prints its line:\n" << done.out;
    EXPECT_EQ(json::parse(LastLine(done.out), nullptr, false).value("steps", 0), kSteps) << done.out;
    EXPECT_FALSE(FileExists(run_ + "/failure.json"));
    EXPECT_EQ(Model(run_), UndisturbedModel());
  }
};

// A block that is damaged in the newest checkpoint alone: the job that goes on from it ends, and the next takes an older one.
TEST_F(LaunchTest, ADamagedCheckpointIsPassedOverAndCostsNoBit) {
  {
    Process launch(Launch());
    ASSERT_TRUE(AwaitCheckpoint(&launch, 120)) << launch.err();
    ::kill(launch.pid(), SIGTERM);
    ASSERT_EQ(Finish(&launch, kSeconds).exit_code, 0) << launch.err();
  }
  const int step = NewestStep();
  const std::string dir = run_ + "/checkpoints/" + NamesIn(run_ + "/checkpoints").back();
  ASSERT_NE(dir.find(std::to_string(step)), std::string::npos) << dir;
  std::string largest;
  const auto files = ListTree(dir);
  for (const std::string& file : *files) {
    const std::string path = dir + "/" + file;
    if (file.ends_with(".sst") && (largest.empty() || *FileSize(path) > *FileSize(largest))) largest = path;
  }
  ASSERT_FALSE(largest.empty());
  std::string bytes = ReadFile(largest).value();
  bytes[bytes.size() / 3] = static_cast<char>(bytes[bytes.size() / 3] ^ 8);
  ASSERT_TRUE(WriteFileAtomic(largest, bytes).ok());  // a file of its own: older checkpoints have the other
  Process launch(Launch({}, {"--resume", "auto"}));
  const Finished done = Finish(&launch, kSeconds);
  EXPECT_EQ(Process::Count(done.err, " W [worker 0] " + dir + " is marked as damaged\n") +
                Process::Count(done.err, " W [worker 1] " + dir + " is marked as damaged\n"), 1) << done.err;
  EXPECT_GE(Process::Count(done.err, "passed over " + dir), 1) << done.err;
  ExpectFinished(done);
}

TEST_F(LaunchTest, WithoutAWholeCheckpointItIsNotTriedAgain) {
  {
    Process launch(Launch());
    ASSERT_TRUE(AwaitCheckpoint(&launch, 40)) << launch.err();
    ::kill(launch.pid(), SIGTERM);
    ASSERT_EQ(Finish(&launch, kSeconds).exit_code, 0) << launch.err();
  }
  for (const std::string& name : NamesIn(run_ + "/checkpoints")) std::filesystem::remove(run_ + "/checkpoints/" + name + "/worker.json");
  Process launch(Launch({}, {"--resume", "auto"}));
  const Finished done = Finish(&launch, kSeconds);
  EXPECT_EQ(done.exit_code, 2) << done.err;
  EXPECT_NE(done.err.find("none that is whole"), std::string::npos) << done.err;
  EXPECT_EQ(done.err.find("restart 1 of 10"), std::string::npos) << done.err;
}

TEST_F(LaunchTest, AKilledRankCostsNoBit) {
  Process launch(Launch());
  ASSERT_TRUE(AwaitCheckpoint(&launch, 40)) << launch.err();
  const std::vector<pid_t> worker = Ranks(3);
  ASSERT_EQ(worker.size(), 1U);
  ::kill(worker[0], SIGKILL);
  const Finished done = Finish(&launch, kSeconds);
  EXPECT_EQ(Process::Count(done.err, "; restart 1 of 10 in 0.5 s, from " + run_ + "/checkpoints/step-"), 1) << done.err;
  EXPECT_EQ(Process::Count(done.err, "resuming from "), 1) << done.err;
  ExpectFinished(done);
}

TEST_F(LaunchTest, AKilledMpirunCostsNoBitAndLeavesNothing) {
  Process launch(Launch());
  ASSERT_TRUE(AwaitCheckpoint(&launch, 40)) << launch.err();
  const std::vector<pid_t> mpirun = MpirunOf(launch);
  ASSERT_EQ(mpirun.size(), 1U);
  const std::vector<pid_t> ranks = Ranks();
  ASSERT_EQ(ranks.size(), 4U);
  const std::set<std::string> shared_memory = SharedMemory();
  EXPECT_GE(shared_memory.size(), 4U);
  ::kill(mpirun[0], SIGKILL);
  ASSERT_TRUE(AwaitWords(&launch, "; restart 1 of 10")) << launch.err();
  for (const pid_t rank : ranks) {
    EXPECT_FALSE(FileExists("/proc/" + std::to_string(rank))) << "killed and reaped before a restart";
  }
  for (const std::string& file : shared_memory) EXPECT_FALSE(FileExists(file)) << file;
  ExpectFinished(Finish(&launch, kSeconds));
}

TEST_F(LaunchTest, WrongInputIsForwardedWithoutARestart) {
  const Finished done = RunProgram(Launch({}, {"--set", "train.n_epochs=1"}), kSeconds);
  EXPECT_EQ(done.exit_code, 2) << done.err;
  EXPECT_NE(done.err.find("n_epochs"), std::string::npos) << done.err;
  EXPECT_EQ(done.err.find("; restart "), std::string::npos) << done.err;
  EXPECT_EQ(done.out, "");
  EXPECT_FALSE(FileExists(run_)) << "nothing is half-written";
}

TEST_F(LaunchTest, WhatItCannotReadStartsNothing) {
  const std::vector<std::pair<std::vector<std::string>, const char*>> cases = {
      {{"-np", "2", "train", config_}, "-- is missing"},
      {{"--", "train", config_}, "-np is missing"},
      {{"-np", "two", "--", "train", config_}, "-np two"},
      {{"-np", "0", "--", "train", config_}, "-np 0"},
      {{"-np", "2", "-n", "2", "--", "train", config_}, "given twice"},
      {{"-np", "2", "--"}, "nothing follows --"},
      {{"-np", "2", "--", "eval", config_}, "eval follows --"},
      {{"-np", "2", "--", "train"}, "config is required"},
      {{"-np", "2", "--", "train", config_, "--sett", "a=b"}, "--sett"},
      {{"-np", "2", "--restarts", "-1", "--", "train", config_}, "--restarts -1"},
      {{"-np", "2", "--grace=soon", "--", "train", config_}, "--grace soon"},
      {{"-np", "2", "--start-deadline", "0", "--", "train", config_}, "--start-deadline 0"},
      {{"-np", "2", "--servers", "1", "--", "train", config_, "--servers", "1"}, "--servers is given twice"},
      {{"-np", "2", "--", "train", config_, "--resume", "auto"}, "say which by --run-dir"},
  };
  for (const auto& [words, says] : cases) {
    std::vector<std::string> command{Binary(), "launch"};
    command.insert(command.end(), words.begin(), words.end());
    const Finished done = RunProgram(command, kSeconds);
    EXPECT_EQ(done.exit_code, 2) << done.err;
    EXPECT_NE(done.err.find(says), std::string::npos) << says << "\n" << done.err;
    EXPECT_EQ(Process::Count(done.err, "\n"), 1) << done.err;
  }
}

TEST_F(LaunchTest, MpirunIsNamedWhenItIsMissing) {
  const Finished done =
      RunProgram({"/usr/bin/env", "PATH=/nowhere", Binary(), "launch", "-np", "2", "--", "train", config_}, kSeconds);
  EXPECT_EQ(done.exit_code, 2) << done.err;
  EXPECT_NE(done.err.find("no mpirun on PATH; install"), std::string::npos) << done.err;
}

TEST_F(LaunchTest, MpirunThatStartsNoRankIsNotTriedForEver) {
  const Finished done = RunProgram(Launch({"--no-such-option"}), kSeconds);
  EXPECT_EQ(done.exit_code, 1) << done.err;
  EXPECT_EQ(Process::Count(done.err, "; restart "), 1) << done.err;
  EXPECT_NE(done.err.find("before training began, as it did before"), std::string::npos) << done.err;
}

// An agent that never comes back, as ssh to a host that does not answer.
TEST_F(LaunchTest, AStartThatHangsIsEndedAndTriedAgain) {
  const std::string agent = dir_.Write("agent", "#!/bin/sh\nexec sleep 600\n");
  std::filesystem::permissions(agent, std::filesystem::perms::owner_all);
  const Finished done = RunProgram(Launch({"--start-deadline", "1", "--restarts", "1", "--host", "192.0.2.1:4", "--mca",
                                           "plm_rsh_agent", agent}),
                                   kSeconds);
  EXPECT_EQ(done.exit_code, 1) << done.err;
  EXPECT_EQ(Process::Count(done.err, "the ranks have not met within 1 s (--start-deadline)"), 2) << done.err;
  EXPECT_EQ(Process::Count(done.err, "the job hung and was ended; restart 1 of 1 in 0.5 s"), 1) << done.err;
  EXPECT_FALSE(FileExists(run_));
}

// While the ranks wait for valid.csv, which never comes, one is lost twice; stopped, so that the others are mostly heard of first,
// whose exit code is 1 each time. (mpirun may hear of the lost one first; its code is not judged here.)
TEST_F(LaunchTest, ARankThatIsLostTwiceBeforeTrainingIsNoReasonToGiveUp) {
  const std::string other = dir_.path() + "/other";
  ASSERT_EQ(
      RunProgram({Binary(), "train", config_, "--run-dir", other, "--set", "train.max_steps=10"}, kSeconds).exit_code,
      0);
  const std::string data = dir_.path() + "/valid.csv";
  const std::string contents = ReadIfThere(data);
  ASSERT_TRUE(RemoveTree(data).ok());
  ASSERT_EQ(::mkfifo(data.c_str(), 0600), 0);
  Process launch(Launch({}, {"--init-from", other, "--set", "train.max_steps=60"}));
  for (int jobs = 1; jobs <= 2; ++jobs) {
    // Said when the ranks have met.
    ASSERT_TRUE(launch.WaitFor(kWaitMs, [&](const Process& p) {
      return Process::Count(p.err(), "beginning with " + other) == jobs || !p.running();
    })) << launch.err();
    const std::vector<pid_t> lost = Ranks(3);
    ASSERT_EQ(lost.size(), 1U) << launch.err();
    ::kill(lost[0], SIGSTOP);
    if (jobs == 2) {
      ASSERT_TRUE(WriteFileAtomic(data, contents).ok());  // for the third job
    }
    ASSERT_TRUE(AwaitWords(&launch, "; restart " + std::to_string(jobs) + " of 10")) << launch.err();
  }
  const Finished done = Finish(&launch, kSeconds);
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_EQ(json::parse(LastLine(done.out), nullptr, false).value("steps", 0), 60) << done.out;
}

TEST_F(LaunchTest, AStepThatFailsTwiceIsTheEnd) {
  const Finished done = RunProgram(Launch({}, {"--set", "train.dense_optimizer={type: sgd, lr: 1.0e+6}", "--set",
                                               "train.sparse_optimizer={type: sgd, lr: 1.0e+6}"}),
                                   kSeconds);
  EXPECT_EQ(done.exit_code, 1) << done.err;
  EXPECT_EQ(Process::Count(done.err, "; restart "), 1) << done.err;
  EXPECT_NE(done.err.find("a restart would fail the same way"), std::string::npos) << done.err;
  const json record = json::parse(ReadIfThere(run_ + "/failure.json"), nullptr, false);
  ASSERT_TRUE(record.is_object());
  EXPECT_EQ(record.value("code", ""), "internal");
  EXPECT_GT(record.value("step", 0), 0);
  EXPECT_GE(record.value("rank", 0), 2) << "a worker";
  EXPECT_NE(record.value("error", "").find("is not a number"), std::string::npos);
}

TEST_F(LaunchTest, RestartsAreUsedUp) {
  Process launch(Launch({"--restarts", "1"}));
  for (const int step : {40, 200}) {
    ASSERT_TRUE(AwaitCheckpoint(&launch, step)) << launch.err();
    ASSERT_TRUE(launch.WaitFor(kWaitMs, [this](const Process&) { return Ranks(0).size() == 1; }));
    ::kill(Ranks(0)[0], SIGKILL);
    if (step == 40) {
      ASSERT_TRUE(AwaitWords(&launch, "; restart 1 of 1 ")) << launch.err();
    }
  }
  const Finished done = Finish(&launch, kSeconds);
  EXPECT_EQ(done.exit_code, 1) << done.err;
  EXPECT_NE(done.err.find("the restarts are used up (--restarts 1)"), std::string::npos) << done.err;
  EXPECT_NE(done.err.find(" is kept; go on with the same command, with --run-dir " + run_ + " --resume auto"),
            std::string::npos)
      << done.err;
  EXPECT_FALSE(FileExists(run_ + "/failure.json")) << "a rank that is killed is no error of the others";
}

// Until the run has a checkpoint of its own, it begins where it began.
TEST_F(LaunchTest, ARunFromAnothersCheckpointBeginsThereAgain) {
  const std::string other = dir_.path() + "/other";
  ASSERT_EQ(
      RunProgram({Binary(), "train", config_, "--run-dir", other, "--set", "train.max_steps=10"}, kSeconds).exit_code,
      0);
  Process launch(Launch({}, {"--resume", other, "--set", "train.checkpoint={every_steps: 100000, every_epochs: 0}",
                             "--set", "data.valid=null"}));
  ASSERT_TRUE(
      launch.WaitFor(kWaitMs, [this](const Process& p) { return FileExists(run_ + "/config.yaml") || !p.running(); }));
  ASSERT_EQ(Ranks(2).size(), 1U) << launch.err();
  ::kill(Ranks(2)[0], SIGKILL);
  const Finished done = Finish(&launch, kSeconds);
  EXPECT_EQ(done.exit_code, 0) << done.err;
  EXPECT_EQ(Process::Count(done.err, "resuming from " + other), 2) << done.err;
}

TEST_F(LaunchTest, AskedToEndItSavesAndTheNextLaunchEndsWithTheSameBits) {
  for (const int signal : {SIGTERM, SIGINT}) {
    Process launch(Launch({}, {"--resume", "auto"}));
    const int before = NewestStep();
    ASSERT_TRUE(AwaitCheckpoint(&launch, before + 40)) << launch.err();
    const int at_signal = NewestStep();
    ::kill(-launch.pid(), signal);  // to the whole process group, as a terminal does it
    const Finished done = Finish(&launch, 30);
    ASSERT_EQ(done.exit_code, 0) << done.err;
    EXPECT_GE(NewestStep(), at_signal);
    EXPECT_LT(NewestStep(), kSteps);
    EXPECT_NE(done.err.find("left at step " + std::to_string(NewestStep()) + " on request"), std::string::npos)
        << done.err;
    EXPECT_TRUE(json::parse(LastLine(done.out), nullptr, false).value("left_early", false)) << done.out;
  }
  ExpectFinished(RunProgram(Launch({}, {"--resume", "auto"}), kSeconds));
}

// Before mpirun listens, before its ranks do, while they read: nothing is lost, so all is well. (A request that nobody
// hears is made again; by then some steps may be done.)
TEST_F(LaunchTest, AskedToEndBeforeTrainingItEndsWell) {
  for (const std::size_t ranks : {0U, 1U, 4U}) {
    Process launch(Launch({}, {"--resume", "auto"}));
    ASSERT_TRUE(launch.WaitFor(
        kWaitMs, [&](const Process& p) { return (!MpirunOf(p).empty() && Ranks().size() >= ranks) || !p.running(); }));
    ASSERT_TRUE(launch.running()) << launch.err();
    ::kill(launch.pid(), SIGTERM);
    const Finished done = Finish(&launch, 30);
    EXPECT_EQ(done.exit_code, 0) << done.err;
    EXPECT_LT(NewestStep(), kSteps) << done.err;
  }
}

TEST_F(LaunchTest, TrainAloneSavesAndLeavesToo) {
  std::vector<std::string> command = InOwnTmp({Binary(), "train", config_, "--run-dir", run_, "--json"});
  AddSettings(&command);
  Process train(command);
  ASSERT_TRUE(AwaitCheckpoint(&train, 40)) << train.err();
  ::kill(train.pid(), SIGUSR1);
  const Finished done = Finish(&train, 30);
  EXPECT_EQ(done.exit_code, 0) << done.err;
  EXPECT_NE(done.err.find("left at step " + std::to_string(NewestStep()) + " on request"), std::string::npos)
      << done.err;
}

TEST_F(LaunchTest, ASignalBetweenTwoJobsEndsWithWhatIsKept) {
  Process launch(Launch());
  ASSERT_TRUE(AwaitCheckpoint(&launch, 40)) << launch.err();
  ASSERT_EQ(Ranks(1).size(), 1U);
  ::kill(Ranks(1)[0], SIGKILL);
  ASSERT_TRUE(AwaitWords(&launch, "; restart 1 of 10")) << launch.err();
  ::kill(launch.pid(), SIGTERM);
  const Finished done = Finish(&launch, 30);
  EXPECT_EQ(done.exit_code, 0) << done.err;
}

TEST_F(LaunchTest, AJobThatDoesNotLeaveIsEnded) {
  for (const bool twice : {false, true}) {
    Process launch(Launch({"--grace", twice ? "60" : "1"}, {"--resume", "auto"}));
    ASSERT_TRUE(AwaitCheckpoint(&launch, NewestStep() + 40)) << launch.err();
    for (const pid_t rank : Ranks()) ::kill(rank, SIGSTOP);
    ::kill(launch.pid(), SIGTERM);
    ASSERT_TRUE(AwaitWords(&launch, "asked to end")) << launch.err();
    if (twice) ::kill(launch.pid(), SIGTERM);
    const Finished done = Finish(&launch, 30);
    // Who ends it wakes its ranks, and they may have left, all of them, before they are ended: that is no failure.
    const bool left = done.exit_code == 0;
    EXPECT_LE(done.exit_code, 1) << done.err;
    EXPECT_NE(done.err.find(twice ? "asked to end again" : "has not left within 1 s (--grace)"), std::string::npos)
        << done.err;
    EXPECT_NE(done.err.find((left ? "on request; " : "before it had left; ") + run_ + "/checkpoints/step-"), std::string::npos) << done.err;
  }
}

TEST_F(LaunchTest, AKilledLaunchTakesEverythingWithIt) {
  Process launch(Launch());
  ASSERT_TRUE(AwaitCheckpoint(&launch, 40)) << launch.err();
  std::vector<pid_t> all = Ranks();
  ASSERT_EQ(all.size(), 4U);
  const std::vector<pid_t> mpirun = MpirunOf(launch);
  all.insert(all.end(), mpirun.begin(), mpirun.end());
  ::kill(launch.pid(), SIGKILL);
  EXPECT_TRUE(AwaitEndOf(&launch, all));
  (void)Finish(&launch, 30);
  // Nobody is left to remove what mpirun itself does not come to.
  for (const std::string& name : Scratch()) {
    if (!name.starts_with("ompi.")) continue;
    EXPECT_TRUE(RemoveTree(dir_.path() + "/" + name).ok());
  }
}

}  // namespace
}  // namespace gatemill::launcher
