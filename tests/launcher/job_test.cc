// The job with real ranks: each test starts mpirun on job_probe and looks at what is said and what is left.
#include "launcher/job.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>

#include "common/file.h"
#include "launcher/launch_line.h"
#include "tests/launcher/process.h"

namespace gatemill::launcher {
namespace {

constexpr int kDeadlineMs = 30000;
constexpr int kEndMs = 10000;  // from a failure to the end of every rank

class JobTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "job-test-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(dir_).ok()); }

  static Process Mpirun(int ranks, const std::vector<std::string>& arguments) {
    std::vector<std::string> line = {MPIRUN, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
                                     "-np",  std::to_string(ranks), JOB_PROBE};
    line.insert(line.end(), arguments.begin(), arguments.end());
    return Process(line);
  }

  // Process ids by rank, from "rank R pid P" lines.
  static std::map<int, pid_t> Pids(const Process& mpirun) {
    std::map<int, pid_t> pids;
    std::istringstream words(mpirun.out());
    for (std::string word; words >> word;) {
      int rank = 0;
      pid_t pid = 0;
      if (word == "rank" && words >> rank >> word && word == "pid" && words >> pid) pids[rank] = pid;
    }
    return pids;
  }

  // A zombie has ended: in a container nobody may collect it.
  static bool Ended(pid_t pid) {
    const auto stat = ReadFile("/proc/" + std::to_string(pid) + "/stat");
    return !stat.ok() || stat->find(") Z ") != std::string::npos;
  }
  static void ExpectNobodyLeft(Process& mpirun, const std::map<int, pid_t>& pids) {
    for (const auto& [rank, pid] : pids) {
      EXPECT_TRUE(mpirun.WaitFor(kEndMs, [pid = pid](const Process&) { return Ended(pid); }))
          << "rank " << rank << " still runs as " << pid;
    }
  }
  void ExpectNothingLeft() const {
    const auto names = ListDir(dir_);
    ASSERT_TRUE(names.ok());
    EXPECT_TRUE(names->empty()) << names->front() << " is left in " << dir_;
  }

  std::string dir_;
};

TEST_F(JobTest, AloneIsBothRolesWithoutMpi) {
  auto job = Job::Start({});
  ASSERT_TRUE(job.ok()) << job.status().message();
  EXPECT_EQ((*job)->size(), 1);
  EXPECT_TRUE((*job)->is_server() && (*job)->is_worker());
  EXPECT_EQ((*job)->name(), "");
  EXPECT_FALSE((*job)->several_hosts());
  EXPECT_EQ((*job)->ranks_on_host(), 1);
  const auto all = (*job)->AllGather("x");
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(*all, std::vector<std::string>{"x"});
  const auto workers = (*job)->WorkerCollective();
  ASSERT_TRUE(workers.ok());
  EXPECT_EQ((*workers)->size(), 1);
  EXPECT_TRUE((*job)->Leave().ok());
  EXPECT_TRUE((*job)->WaitForWorkers([] { return Ok(); }).ok());
  const std::uint64_t id = (*job)->id();
  job->reset();
  auto another = Job::Start({});
  ASSERT_TRUE(another.ok());
  EXPECT_NE((*another)->id(), id);
}

TEST_F(JobTest, AloneASignalSetsStop) {
  auto job = Job::Start({});
  ASSERT_TRUE(job.ok());
  EXPECT_FALSE((*job)->stop());
  ::kill(::getpid(), SIGINT);
  for (int turn = 0; turn < 500 && !(*job)->stop(); ++turn) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE((*job)->stop());
}

TEST_F(JobTest, AloneSigusr1AsksToLeave) {
  auto job = Job::Start({});
  ASSERT_TRUE(job.ok());
  ::kill(::getpid(), SIGUSR1);
  for (int turn = 0; turn < 500 && !(*job)->leave_requested(); ++turn) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE((*job)->leave_requested());
  EXPECT_TRUE((*job)->interrupted());
  EXPECT_FALSE((*job)->stop());
  job->reset();
  ::kill(::getpid(), SIGUSR1);  // too late to mean anything, and no reason to die
}

TEST_F(JobTest, AloneASecondSignalEndsAtOnceAndRemovesScratch) {
  Process probe({JOB_PROBE, "hang", "0", dir_});
  ASSERT_TRUE(probe.WaitForOutput(kDeadlineMs, "pid"));
  ::kill(probe.pid(), SIGINT);
  EXPECT_FALSE(probe.WaitForExit(300)) << "the first signal only asks to stop";
  ::kill(probe.pid(), SIGINT);
  ASSERT_TRUE(probe.WaitForExit(kEndMs));
  EXPECT_EQ(probe.exit_code(), 130);
  ExpectNothingLeft();
}

TEST_F(JobTest, ServersNeedMoreRanks) {
  const auto alone = Job::Start({.servers = 1});
  EXPECT_EQ(alone.status().code(), Code::kInvalidInput);
  EXPECT_NE(alone.status().message().find("mpirun -np 2"), std::string::npos) << alone.status().message();
  EXPECT_EQ(Job::Start({.servers = -1}).status().code(), Code::kInvalidInput);

  Process mpirun = Mpirun(2, {"roles", "2"});
  ASSERT_TRUE(mpirun.WaitForExit(kDeadlineMs));
  EXPECT_EQ(mpirun.exit_code(), 2);
  EXPECT_EQ(Process::Count(mpirun.err(), "gatemill: --servers 2 leaves no worker among 2 ranks"), 1) << mpirun.err();
}

// However slow a rank is to end, what it found has been said before mpirun can kill it.
TEST_F(JobTest, AMistakeIsSaidOnceBeforeAnyRankEnds) {
  Process mpirun = Mpirun(3, {"disagree", "0"});
  ASSERT_TRUE(mpirun.WaitForExit(kDeadlineMs));
  EXPECT_EQ(mpirun.exit_code(), 2);
  EXPECT_EQ(Process::Count(mpirun.err(), "gatemill: [rank 1] rank 1 lacks a file\n"), 1) << mpirun.err();
  EXPECT_EQ(Process::Count(mpirun.err(), "lacks a file"), 1) << mpirun.err();
}

TEST_F(JobTest, EveryRankIsBothByDefault) {
  Process mpirun = Mpirun(3, {"roles", "0"});
  ASSERT_TRUE(mpirun.WaitForExit(kDeadlineMs));
  EXPECT_EQ(mpirun.exit_code(), 0) << mpirun.err();
  for (const char* line : {"rank 0/3 name [rank 0] server 0/3 worker 0/3 hosts one at 127.0.0.1 with 3 ranks",
                           "rank 1/3 name [rank 1] server 1/3 worker 1/3 hosts one at 127.0.0.1 with 3 ranks",
                           "rank 2/3 name [rank 2] server 2/3 worker 2/3 hosts one at 127.0.0.1 with 3 ranks"}) {
    EXPECT_NE(mpirun.out().find(line), std::string::npos) << line << "\nin\n" << mpirun.out();
  }
}

TEST_F(JobTest, FirstRanksAreServers) {
  Process mpirun = Mpirun(3, {"roles", "2"});
  ASSERT_TRUE(mpirun.WaitForExit(kDeadlineMs));
  EXPECT_EQ(mpirun.exit_code(), 0) << mpirun.err();
  for (const char* line :
       {"rank 0/3 name [server 0] server 0/2 worker -1/1", "rank 1/3 name [server 1] server 1/2 worker -1/1",
        "rank 2/3 name [worker 0] server -1/2 worker 0/1"}) {
    EXPECT_NE(mpirun.out().find(line), std::string::npos) << line << "\nin\n" << mpirun.out();
  }
}

TEST_F(JobTest, OneRankUnderMpirun) {
  Process mpirun = Mpirun(1, {"exchange", "0", dir_});
  ASSERT_TRUE(mpirun.WaitForExit(kDeadlineMs));
  EXPECT_EQ(mpirun.exit_code(), 0) << mpirun.err();
  EXPECT_NE(mpirun.out().find("worker 0 sum 1"), std::string::npos) << mpirun.out();
}

TEST_F(JobTest, RanksExchangeAndAgreeOnAnId) {
  Process mpirun = Mpirun(4, {"exchange", "1"});
  ASSERT_TRUE(mpirun.WaitForExit(kDeadlineMs));
  EXPECT_EQ(mpirun.exit_code(), 0) << mpirun.err();
  EXPECT_EQ(Process::Count(mpirun.out(), " sum 3"), 3) << mpirun.out();
  EXPECT_EQ(mpirun.out().find("a server got"), std::string::npos);
  std::set<std::string> gathered;
  std::istringstream lines(mpirun.out());
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("all")) gathered.insert(line);
  }
  ASSERT_EQ(gathered.size(), 1U) << mpirun.out();  // the same from all four, the job's id included
  const std::string& line = *gathered.begin();
  EXPECT_LT(line.find("r0-"), line.find("r1-"));
  EXPECT_LT(line.find("r2-"), line.find("r3-"));
}

TEST_F(JobTest, ServersWaitUntilWorkersLeave) {
  Process mpirun = Mpirun(4, {"leave", "2"});
  ASSERT_TRUE(mpirun.WaitForExit(kDeadlineMs));
  EXPECT_EQ(mpirun.exit_code(), 0) << mpirun.err();
  EXPECT_EQ(Process::Count(mpirun.out(), "server was released after ticks"), 2) << mpirun.out();
}

TEST_F(JobTest, ABadTickEndsTheJob) {
  Process mpirun = Mpirun(2, {"tick", "1", dir_});
  ASSERT_TRUE(mpirun.WaitForExit(kDeadlineMs));
  EXPECT_EQ(mpirun.exit_code(), 1);
  EXPECT_NE(mpirun.err().find("[server 0] the shard's thread ended"), std::string::npos) << mpirun.err();
  ExpectNothingLeft();
}

class JobDeathTest : public JobTest, public testing::WithParamInterface<int> {};

TEST_P(JobDeathTest, AKilledRankIsNamedAndTheOthersEnd) {
  const int victim = GetParam();
  Process mpirun = Mpirun(3, {"work", "1", dir_});
  ASSERT_TRUE(mpirun.WaitForOutput(kDeadlineMs, "pid", 3)) << mpirun.out() << mpirun.err();
  const auto pids = Pids(mpirun);
  ASSERT_EQ(pids.size(), 3U);
  ::kill(pids.at(victim), SIGKILL);
  ASSERT_TRUE(mpirun.WaitForExit(kEndMs));
  EXPECT_NE(mpirun.exit_code(), 0);
  const std::string name = "rank " + std::to_string(victim) + " (";
  const std::size_t at = mpirun.err().find(name);
  ASSERT_NE(at, std::string::npos) << mpirun.err();
  EXPECT_NE(mpirun.err().find("is gone", at), std::string::npos) << mpirun.err();
  ExpectNobodyLeft(mpirun, pids);
  ExpectNothingLeft();
}

INSTANTIATE_TEST_SUITE_P(Ranks, JobDeathTest, testing::Values(0, 1, 2));

TEST_F(JobTest, ASilentRankIsNamedAndTheOthersEnd) {
  Process mpirun = Mpirun(3, {"work", "0", dir_});
  ASSERT_TRUE(mpirun.WaitForOutput(kDeadlineMs, "pid", 3)) << mpirun.out() << mpirun.err();
  const auto pids = Pids(mpirun);
  ASSERT_EQ(pids.size(), 3U);
  ::kill(pids.at(2), SIGSTOP);
  ASSERT_TRUE(mpirun.WaitForExit(kEndMs));
  EXPECT_NE(mpirun.exit_code(), 0);
  EXPECT_NE(mpirun.err().find("rank 2 (process " + std::to_string(pids.at(2))), std::string::npos) << mpirun.err();
  EXPECT_NE(mpirun.err().find("silent"), std::string::npos) << mpirun.err();
  ExpectNobodyLeft(mpirun, pids);
  ExpectNothingLeft();
}

TEST_F(JobTest, ARankThatVanishesIsNamed) {
  Process mpirun = Mpirun(3, {"vanish", "0", dir_});
  ASSERT_TRUE(mpirun.WaitForExit(kDeadlineMs));
  EXPECT_NE(mpirun.exit_code(), 0);
  EXPECT_NE(mpirun.err().find("rank 1 ("), std::string::npos) << mpirun.err();
  EXPECT_NE(mpirun.err().find("without a goodbye"), std::string::npos) << mpirun.err();
  ExpectNobodyLeft(mpirun, Pids(mpirun));
  ExpectNothingLeft();
}

TEST_F(JobTest, WhatOnlyFollowsFromADeathCanBeToldApart) {
  Process mpirun = Mpirun(3, {"follow", "0", dir_});
  ASSERT_TRUE(mpirun.WaitForExit(kDeadlineMs));
  EXPECT_EQ(Process::Count(mpirun.out(), "rank 2 ends anyway"), 1) << mpirun.out() << mpirun.err();
  ExpectNothingLeft();
}

TEST_F(JobTest, AbortEndsEveryRankWithItsExitCodeAndReason) {
  Process mpirun = Mpirun(3, {"abort", "0", dir_});
  ASSERT_TRUE(mpirun.WaitForExit(kDeadlineMs));
  EXPECT_EQ(mpirun.exit_code(), 2) << mpirun.err();
  EXPECT_EQ(Process::Count(mpirun.err(), "[rank 1] train.csv:7: label 3 is neither 0 nor 1"), 1) << mpirun.err();
  EXPECT_EQ(mpirun.err().find("is gone"), std::string::npos) << mpirun.err();
  ExpectNobodyLeft(mpirun, Pids(mpirun));
  ExpectNothingLeft();
}

TEST_F(JobTest, CtrlCStopsEveryRank) {
  Process mpirun = Mpirun(3, {"work", "0"});
  ASSERT_TRUE(mpirun.WaitForOutput(kDeadlineMs, "pid", 3)) << mpirun.out() << mpirun.err();
  const auto pids = Pids(mpirun);
  ::kill(-mpirun.pid(), SIGINT);  // as a terminal does it: to the whole process group
  ASSERT_TRUE(mpirun.WaitForExit(kEndMs));
  EXPECT_EQ(Process::Count(mpirun.out(), " stopped"), 3) << mpirun.out() << mpirun.err();
  EXPECT_EQ(mpirun.err().find("is gone"), std::string::npos) << mpirun.err();
  ExpectNobodyLeft(mpirun, pids);
}

TEST_F(JobTest, CtrlCLeavesNothingOfRanksThatDoNotStop) {
  Process mpirun = Mpirun(2, {"hang", "0", dir_});
  ASSERT_TRUE(mpirun.WaitForOutput(kDeadlineMs, "pid", 2)) << mpirun.out() << mpirun.err();
  const auto pids = Pids(mpirun);
  ::kill(mpirun.pid(), SIGTERM);
  ASSERT_TRUE(mpirun.WaitForExit(kEndMs));
  EXPECT_NE(mpirun.exit_code(), 0);
  ExpectNobodyLeft(mpirun, pids);
  ExpectNothingLeft();
}

TEST_F(JobTest, Sigusr1ToMpirunAsksToLeaveWithoutAKill) {
  Process mpirun = Mpirun(3, {"work", "1"});
  ASSERT_TRUE(mpirun.WaitForOutput(kDeadlineMs, "pid", 3)) << mpirun.out() << mpirun.err();
  ::kill(mpirun.pid(), SIGUSR1);
  ASSERT_TRUE(mpirun.WaitForExit(kEndMs));
  EXPECT_EQ(mpirun.exit_code(), 0) << mpirun.err();
  EXPECT_EQ(Process::Count(mpirun.out(), " leaves"), 3) << mpirun.out();
}

// Rank 1 does not come, so that rank 0 waits inside MPI_Init.
TEST_F(JobTest, RanksThatDoNotMeetEndWithinWhatLaunchAllows) {
  auto line = LaunchLine::Open({.start_ms = 2000});
  ASSERT_TRUE(line.ok()) << line.status().message();
  const auto invitation = (*line)->Invite();
  ASSERT_TRUE(invitation.ok());
  Process mpirun({MPIRUN, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2", "/usr/bin/env",
                  std::string(kInvitationVariable) + "=" + *invitation, "/bin/sh", "-c",
                  "[ $OMPI_COMM_WORLD_RANK = 0 ] || exec sleep 600; exec " + std::string(JOB_PROBE) + " roles 0"});
  ASSERT_TRUE(mpirun.WaitForExit(kEndMs));
  EXPECT_EQ(mpirun.exit_code(), 1) << mpirun.err();
  EXPECT_EQ(Process::Count(mpirun.err(), "gatemill: [rank 0] the ranks have not met within 2000 ms"), 1) << mpirun.err();
}

TEST_F(JobTest, AnInvitationThatNobodyAnswersIsSaid) {
  Process mpirun({MPIRUN, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2", "/usr/bin/env",
                  std::string(kInvitationVariable) + "=token|launch (process 1 on nowhere)|nowhere|1|20000|127.0.0.1",
                  JOB_PROBE, "roles", "0"});
  ASSERT_TRUE(mpirun.WaitForExit(kDeadlineMs));
  EXPECT_EQ(mpirun.exit_code(), 1) << mpirun.err();
  EXPECT_NE(mpirun.err().find("launch (process 1 on nowhere) does not answer at 127.0.0.1, port 1"), std::string::npos)
      << mpirun.err();
}

TEST_F(JobTest, RanksEndWhenMpirunIsKilledAndLeaveNothing) {
  for (const char* scene : {"work", "hang", "talk"}) {
    Process mpirun = Mpirun(3, {scene, "0", dir_});
    ASSERT_TRUE(mpirun.WaitForOutput(kDeadlineMs, "pid", 3)) << mpirun.out() << mpirun.err();
    const auto pids = Pids(mpirun);
    ::kill(mpirun.pid(), SIGKILL);
    ExpectNobodyLeft(mpirun, pids);
    ExpectNothingLeft();
  }
}

}  // namespace
}  // namespace gatemill::launcher
