// Every rule of the supervisor, with a clock moved by hand.
#include "launcher/supervisor.h"

#include <gtest/gtest.h>

#include <limits>

namespace gatemill::launcher {
namespace {

constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

RunCheckpoint CheckpointAt(std::uint64_t step) { return {.step = step, .dir = "run/step-" + std::to_string(step)}; }

JobEnd Ended(int exit_code, std::optional<std::uint64_t> checkpoint = std::nullopt) {
  JobEnd end{.exit_code = exit_code, .began = true, .failure = std::nullopt, .newest = std::nullopt};
  if (checkpoint) end.newest = CheckpointAt(*checkpoint);
  return end;
}

JobEnd Failed(std::uint64_t step, const std::string& error, std::optional<std::uint64_t> checkpoint = std::nullopt) {
  JobEnd end = Ended(1, checkpoint);
  end.failure = Failure{.step = step, .code = "internal", .error = error, .rank = 1};
  return end;
}

JobEnd Stillborn(int exit_code) {
  JobEnd end = Ended(exit_code);
  end.began = false;
  return end;
}

class SupervisorTest : public testing::Test {
 protected:
  explicit SupervisorTest(int restarts = 10)
      : supervisor_({.restarts = restarts, .grace_ns = 30 * kNsPerSecond, .resume_hint = "this line"}) {}

  void Begin(std::optional<RunCheckpoint> newest = std::nullopt) {
    Take(supervisor_.Begin(now_ns_, newest));
    ExpectOnly(ActionKind::kStart);
    ExpectStartDeadline();
    RanksMeet();
  }
  void ExpectStartDeadline() { EXPECT_EQ(supervisor_.wake_ns(), now_ns_ + 300 * kNsPerSecond); }
  void RanksMeet() {
    Take(supervisor_.OnRanksMet(now_ns_));
    EXPECT_TRUE(actions_.empty());
    EXPECT_EQ(supervisor_.wake_ns(), kNever);
  }
  // A job that is started and hangs there, at the moment when it is seen.
  void BeginAndHang() {
    Take(supervisor_.Begin(now_ns_, std::nullopt));
    TickAt(supervisor_.wake_ns() - 1);
    EXPECT_TRUE(actions_.empty());
    TickAt(supervisor_.wake_ns());
  }
  // The same of a job that has trained: rank 0 is gone, mpirun stays.
  void BeginAndLinger() {
    Begin();
    Take(supervisor_.OnRanksEnd(now_ns_, false));
    EXPECT_TRUE(actions_.empty());
    EXPECT_EQ(supervisor_.wake_ns(), now_ns_ + 5 * kNsPerSecond);
    TickAt(supervisor_.wake_ns());
  }
  void JobEnds(const JobEnd& end) { Take(supervisor_.OnJobEnd(now_ns_, end)); }
  void Signal() { Take(supervisor_.OnSignal(now_ns_)); }
  void TickAt(std::int64_t now_ns) {
    now_ns_ = now_ns;
    Take(supervisor_.OnTick(now_ns_));
  }
  // The job ends and is started again after so many seconds.
  void ExpectRestartAfter(const JobEnd& end, double seconds) {
    JobEnds(end);
    ExpectOnly(ActionKind::kSay);
    const auto at = now_ns_ + static_cast<std::int64_t>(seconds * kNsPerSecond);
    ASSERT_EQ(supervisor_.wake_ns(), at);
    TickAt(at - 1);
    EXPECT_TRUE(actions_.empty());
    TickAt(at);
    ExpectOnly(ActionKind::kStart);
    ExpectStartDeadline();
  }
  void ExpectEnd(int exit_code) {
    ExpectOnly(ActionKind::kEnd);
    EXPECT_EQ(actions_[0].exit_code, exit_code) << said_;
    EXPECT_EQ(supervisor_.wake_ns(), kNever);
  }
  void ExpectOnly(ActionKind kind) {
    ASSERT_EQ(actions_.size(), 1U);
    EXPECT_EQ(actions_[0].kind, kind);
  }
  [[nodiscard]] bool Does(ActionKind kind) const {
    for (const Action& action : actions_) {
      if (action.kind == kind) return true;
    }
    return false;
  }
  [[nodiscard]] bool Says(const std::string& text) const { return said_.find(text) != std::string::npos; }
  void Take(std::vector<Action> actions) {
    actions_ = std::move(actions);
    said_.clear();
    for (const Action& action : actions_) said_ += action.text + "\n";
  }

  std::int64_t now_ns_ = 1'000;
  Supervisor supervisor_;
  std::vector<Action> actions_;
  std::string said_;
};

class TwoRestartsTest : public SupervisorTest {
 protected:
  TwoRestartsTest() : SupervisorTest(2) {}
};
class NoRestartTest : public SupervisorTest {
 protected:
  NoRestartTest() : SupervisorTest(0) {}
};

TEST_F(SupervisorTest, AJobThatEndsWellIsTheEnd) {
  Begin();
  JobEnds(Ended(0, 40));
  ExpectEnd(0);
  Signal();
  EXPECT_TRUE(actions_.empty());
}

TEST_F(SupervisorTest, WrongInputIsNotTriedAgain) {
  Begin();
  JobEnds(Ended(2));
  ExpectEnd(2);
}

TEST_F(SupervisorTest, ADeadJobStartsAgainAndItIsSaidFromWhere) {
  Begin();
  JobEnds(Ended(137, 40));
  ExpectOnly(ActionKind::kSay);
  EXPECT_TRUE(Says("ended by signal 9")) << said_;
  EXPECT_TRUE(Says("restart 1 of 10 in 0.5 s, from run/step-40")) << said_;
  TickAt(supervisor_.wake_ns());
  JobEnds(Failed(47, "the disk is full", 40));
  EXPECT_TRUE(Says("exit code 1 (rank 1 after 47 steps: the disk is full)")) << said_;
  EXPECT_TRUE(Says("restart 2 of 10 in 1 s")) << said_;
}

TEST_F(SupervisorTest, WithoutACheckpointItStartsFromTheBeginning) {
  Begin();
  JobEnds(Ended(1));
  EXPECT_TRUE(Says("from the beginning: there is no checkpoint yet")) << said_;
}

TEST_F(SupervisorTest, TheWaitDoublesUntilThereIsProgress) {
  Begin(CheckpointAt(10));
  for (const double seconds : {0.5, 1.0, 2.0, 4.0}) ExpectRestartAfter(Ended(137, 10), seconds);
  ExpectRestartAfter(Ended(137, 20), 0.5);
  ExpectRestartAfter(Ended(137, 20), 1.0);
  ExpectRestartAfter(Ended(137, 30), 0.5);
}

TEST_F(SupervisorTest, TheWaitIsAMinuteAtMost) {
  Begin();
  for (const double seconds : {0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0})
    ExpectRestartAfter(Ended(137), seconds);
}

TEST_F(SupervisorTest, ACheckpointThatIsGoneIsNoProgress) {
  Begin(CheckpointAt(20));
  ExpectRestartAfter(Ended(137, 20), 0.5);
  ExpectRestartAfter(Ended(137, 10), 1.0);  // the newer one was damaged
  ExpectRestartAfter(Ended(137), 2.0);
}

TEST_F(TwoRestartsTest, RestartsAreUsedUpWhateverTheProgress) {
  Begin();
  ExpectRestartAfter(Ended(137, 10), 0.5);
  ExpectRestartAfter(Ended(137, 20), 0.5);
  JobEnds(Ended(137, 30));
  ExpectEnd(1);
  EXPECT_TRUE(Says("the restarts are used up (--restarts 2)")) << said_;
  EXPECT_TRUE(Says("run/step-30 is kept; go on with this line")) << said_;
}

TEST_F(NoRestartTest, NoRestartsMeansNone) {
  Begin();
  JobEnds(Ended(1));
  ExpectEnd(1);
}

TEST_F(SupervisorTest, TheSameStepThatFailsTwiceIsTheEnd) {
  Begin();
  ExpectRestartAfter(Failed(47, "no number", 40), 0.5);
  JobEnds(Failed(47, "no number", 40));
  ExpectEnd(1);
  EXPECT_TRUE(Says("would fail the same way")) << said_;
}

TEST_F(SupervisorTest, ADeathBetweenTwoFailuresDoesNotHideThatTheyAreTheSame) {
  Begin();
  ExpectRestartAfter(Failed(47, "no number", 40), 0.5);
  ExpectRestartAfter(Ended(137, 40), 1.0);
  JobEnds(Failed(47, "no number", 40));
  ExpectEnd(1);
}

TEST_F(SupervisorTest, AnotherStepErrorOrCodeIsAnotherFailure) {
  Begin();
  ExpectRestartAfter(Failed(47, "no number"), 0.5);
  ExpectRestartAfter(Failed(48, "no number"), 1.0);
  ExpectRestartAfter(Failed(48, "the disk is full"), 2.0);
  JobEnd other = Failed(48, "the disk is full");
  other.failure->code = "data_loss";
  ExpectRestartAfter(other, 4.0);
}

TEST_F(SupervisorTest, NumbersDoNotMakeAnotherFailure) {
  EXPECT_EQ(WithoutNumbers("tcp://10.0.0.1:4711 after 30 s"), "tcp://#.#.#.#:# after # s");
  EXPECT_EQ(WithoutNumbers("ipc:///tmp/gatemill-Ry4PlM/shard-0"), WithoutNumbers("ipc:///tmp/gatemill-abCdEf/shard-0"));
  Begin();
  ExpectRestartAfter(Failed(47, "process 123 at port 45000"), 0.5);
  JobEnds(Failed(47, "process 4567 at port 9"));
  ExpectEnd(1);
}

TEST_F(SupervisorTest, AnotherRankMayNameAnotherPlace) {
  Begin();
  ExpectRestartAfter(Failed(47, "no number in click"), 0.5);
  JobEnd other = Failed(47, "no number in buy");
  other.failure->rank = 2;
  JobEnds(other);
  ExpectEnd(1);
}

TEST_F(SupervisorTest, MpirunThatStartsNoRankTwiceIsTheEnd) {
  Begin();
  ExpectRestartAfter(Stillborn(1), 0.5);
  JobEnds(Stillborn(1));
  ExpectEnd(1);
  EXPECT_TRUE(Says("before training began")) << said_;
}

TEST_F(SupervisorTest, ARankOrAHostLostBeforeTrainingIsNoReasonToGiveUp) {
  Begin();
  ExpectRestartAfter(Stillborn(137), 0.5);
  ExpectRestartAfter(Stillborn(137), 1.0);
  ExpectRestartAfter(Stillborn(1), 2.0);
  ExpectRestartAfter(Ended(1), 4.0);
  ExpectRestartAfter(Stillborn(1), 8.0);
  ExpectRestartAfter(Stillborn(205), 16.0);
  JobEnds(Stillborn(205));  // mpirun has lost a host
  EXPECT_TRUE(Says("exit code 205; restart 7 of 10 in 32 s")) << said_;
}

// Which exit code mpirun gives then is chance.
TEST_F(SupervisorTest, ARankLostTwiceBeforeTrainingIsNoReasonToGiveUp) {
  Begin();
  JobEnd lost = Stillborn(1);
  lost.cut = true;
  ExpectRestartAfter(lost, 0.5);
  ExpectRestartAfter(lost, 1.0);
  ExpectRestartAfter(Stillborn(1), 2.0);
  ExpectRestartAfter(lost, 4.0);
  ExpectRestartAfter(Stillborn(1), 8.0);
  JobEnds(Stillborn(1));
  ExpectEnd(1);
}

// mpirun's options are good: a job has begun with them.
TEST_F(SupervisorTest, AHostThatIsAwayAfterAJobHasBegunIsNoReasonToGiveUp) {
  Begin();
  ExpectRestartAfter(Ended(1, 40), 0.5);
  ExpectRestartAfter(Stillborn(1), 1.0);
  ExpectRestartAfter(Stillborn(1), 2.0);
  ExpectRestartAfter(Stillborn(1), 4.0);
}

TEST_F(SupervisorTest, WhatRankZeroSaidIsTheReason) {
  Begin();
  JobEnd end = Ended(1, 40);
  end.why = "rank 3 (worker 1, process 7 on host-c) is gone";
  JobEnds(end);
  EXPECT_TRUE(Says("exit code 1 (rank 3 (worker 1, process 7 on host-c) is gone); restart 1")) << said_;
  TickAt(supervisor_.wake_ns());
  end = Failed(47, "the disk is full", 40);
  end.why = "worker 1: the disk is full";
  JobEnds(end);
  EXPECT_TRUE(Says("(rank 1 after 47 steps: the disk is full); restart 2")) << said_;
}

TEST_F(SupervisorTest, RanksThatDoNotMeetAreEndedAndStartedAgain) {
  BeginAndHang();
  EXPECT_TRUE(Does(ActionKind::kTerminate));
  EXPECT_TRUE(Says("have not met within 300 s (--start-deadline)")) << said_;
  TickAt(now_ns_ + 5 * kNsPerSecond);
  ExpectOnly(ActionKind::kKill);
  ExpectRestartAfter(Stillborn(137), 0.5);
  EXPECT_EQ(supervisor_.wake_ns(), now_ns_ + 300 * kNsPerSecond);
}

TEST_F(SupervisorTest, AJobThatHangsTwiceBeforeItBeginsIsStartedAgain) {
  BeginAndHang();
  ExpectRestartAfter(Stillborn(1), 0.5);
  TickAt(supervisor_.wake_ns());
  EXPECT_TRUE(Does(ActionKind::kTerminate));
  JobEnds(Stillborn(1));
  EXPECT_TRUE(Says("the job hung and was ended; restart 2 of 10")) << said_;
}

// Whatever mpirun says of a job that it was told to end.
TEST_F(SupervisorTest, AHungStartDidNotEndWell) {
  BeginAndHang();
  ExpectRestartAfter(Stillborn(0), 0.5);
}

TEST_F(SupervisorTest, AnMpirunThatOutlivesRankZeroIsKilledAndTheJobStartedAgain) {
  BeginAndLinger();
  EXPECT_TRUE(Does(ActionKind::kKill));
  EXPECT_FALSE(Does(ActionKind::kTerminate)) << "it ends the job already";
  EXPECT_TRUE(Says("mpirun has not ended within 5 s of rank 0")) << said_;
  JobEnd end = Ended(137, 40);
  end.why = "rank 3 is gone";
  JobEnds(end);
  EXPECT_TRUE(Says("the job hung and was ended (rank 3 is gone); restart 1 of 10 in 0.5 s, from run/step-40")) << said_;
}

TEST_F(SupervisorTest, AnMpirunThatEndsSoonAfterRankZeroIsLeftAlone) {
  Begin();
  Take(supervisor_.OnRanksEnd(now_ns_, true));
  TickAt(now_ns_ + 20 * kNsPerSecond - 1);
  EXPECT_TRUE(actions_.empty());
  JobEnds(Ended(0, 40));
  ExpectEnd(0);
}

TEST_F(SupervisorTest, WhoAsksAHungJobToEndWaitsForNoRestart) {
  BeginAndHang();
  Signal();
  EXPECT_TRUE(actions_.empty()) << "it is being ended";
  JobEnds(Stillborn(143));
  ExpectEnd(0);
}

TEST_F(SupervisorTest, WhoAsksAKilledJobToEndLearnsWhatIsKept) {
  BeginAndLinger();
  Signal();
  EXPECT_TRUE(actions_.empty());
  JobEnds(Ended(137, 40));
  ExpectEnd(0);
  EXPECT_TRUE(Says("run/step-40 is kept")) << said_;
}

TEST_F(SupervisorTest, AJobThatEndsNeedNotBeAskedToLeave) {
  Begin(CheckpointAt(40));
  Take(supervisor_.OnRanksEnd(now_ns_, false));
  Signal();
  ExpectOnly(ActionKind::kSay);
  EXPECT_EQ(supervisor_.wake_ns(), now_ns_ + 5 * kNsPerSecond);
  TickAt(supervisor_.wake_ns());
  EXPECT_TRUE(Does(ActionKind::kKill));
  JobEnds(Ended(137, 40));
  ExpectEnd(0);
}

TEST_F(SupervisorTest, ASecondSignalEndsAJobThatEndsAtOnce) {
  Begin(CheckpointAt(40));
  Take(supervisor_.OnRanksEnd(now_ns_, true));
  Signal();
  Signal();
  EXPECT_TRUE(Does(ActionKind::kTerminate));
  JobEnds(Ended(143, 40));
  ExpectEnd(1);
}

TEST_F(SupervisorTest, AJobThatWasAskedToLeaveHasItsOwnDeadline) {
  Begin();
  Signal();
  const std::int64_t wake = supervisor_.wake_ns();
  Take(supervisor_.OnRanksEnd(now_ns_, false));
  EXPECT_EQ(supervisor_.wake_ns(), wake);
  JobEnds(Ended(0, 47));
  ExpectEnd(0);
}

TEST_F(SupervisorTest, ASignalAsksTheJobToLeaveUntilItDoes) {
  Begin();
  Signal();
  EXPECT_TRUE(Does(ActionKind::kAskToLeave));
  EXPECT_TRUE(Says("within 30 s")) << said_;
  for (const int tenths : {1, 3, 7, 15, 31, 63, 127, 255}) {
    ASSERT_EQ(supervisor_.wake_ns(), 1'000 + tenths * kNsPerSecond / 10);
    TickAt(supervisor_.wake_ns());
    ExpectOnly(ActionKind::kAskToLeave);
  }
  EXPECT_EQ(supervisor_.wake_ns(), 1'000 + 30 * kNsPerSecond);
  JobEnds(Ended(0, 47));
  ExpectEnd(0);
}

TEST_F(SupervisorTest, TheEndOfTheGracePeriodEndsTheJob) {
  Begin();
  Signal();
  TickAt(now_ns_ + 30 * kNsPerSecond);
  EXPECT_TRUE(Does(ActionKind::kTerminate));
  EXPECT_TRUE(Says("--grace")) << said_;
  TickAt(supervisor_.wake_ns());
  ExpectOnly(ActionKind::kKill);
  JobEnds(Ended(137, 40));
  ExpectEnd(1);
  EXPECT_TRUE(Says("before it had left; run/step-40 is kept; go on with this line")) << said_;
}

TEST_F(SupervisorTest, AJobThatHadLeftWhenTheSecondSignalCameHasDoneWhatItWasAskedTo) {
  Begin();
  Signal();
  Signal();
  EXPECT_TRUE(Does(ActionKind::kTerminate));
  JobEnd end = Ended(1, 47);
  end.done = true;
  JobEnds(end);
  ExpectEnd(0);
}

TEST_F(SupervisorTest, ASecondSignalEndsTheJobAtOnceAndAThirdKillsIt) {
  Begin();
  Signal();
  Signal();
  EXPECT_TRUE(Does(ActionKind::kTerminate));
  Signal();
  ExpectOnly(ActionKind::kKill);
  Signal();
  EXPECT_TRUE(actions_.empty());
  TickAt(supervisor_.wake_ns());
  ExpectEnd(1);
  EXPECT_TRUE(Says("cannot be killed")) << said_;
}

TEST_F(SupervisorTest, AJobThatDiesWhileLeavingIsNotStartedAgain) {
  Begin(CheckpointAt(10));
  Signal();
  JobEnds(Ended(137, 10));
  ExpectEnd(1);
  EXPECT_TRUE(Says("run/step-10 is kept")) << said_;
}

TEST_F(SupervisorTest, AJobThatHadNotBegunLosesNothingByLeaving) {
  Begin();
  Signal();
  JobEnds(Stillborn(138));
  ExpectEnd(0);
}

TEST_F(SupervisorTest, WrongInputIsSaidToWhoLeavesToo) {
  Begin();
  Signal();
  JobEnds(Ended(2));
  ExpectEnd(2);
}

TEST_F(SupervisorTest, ASignalBetweenTwoJobsEndsAtOnce) {
  Begin();
  JobEnds(Ended(137, 40));
  Signal();
  ExpectEnd(0);
  EXPECT_TRUE(Says("run/step-40 is kept; go on with this line")) << said_;
}

TEST_F(SupervisorTest, ASignalBetweenTwoJobsThatKeptNothingSaysSo) {
  Begin();
  JobEnds(Ended(137));
  Signal();
  ExpectEnd(1);
  EXPECT_TRUE(Says("is lost")) << said_;
}

TEST_F(SupervisorTest, ASignalBetweenTwoJobsThatTrainedNothingLosesNothing) {
  Begin();
  JobEnds(Stillborn(137));
  Signal();
  ExpectEnd(0);
}

}  // namespace
}  // namespace gatemill::launcher
