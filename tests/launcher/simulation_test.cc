// The simulation of tests/ps/simulation with checkpoints as a run has them (worker/train/checkpoint.h) and with the supervisor of launch
// above it: it decides whether a job starts again, and from what; a run ends in the right rows or with its error.
//
// Seeds are new in every run: GATEMILL_TEST_SEED=SEED runs one schedule alone and tells what happens.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/file.h"
#include "launcher/run_dir.h"
#include "launcher/supervisor.h"
#include "ps/checkpoint.h"
#include "tests/ps/simulation/schedule.h"
#include "tests/ps/simulation/sim_store.h"
#include "tests/small_disk.h"
#include "tests/temp_dir.h"
#include "worker/train/checkpoint.h"

namespace gatemill::launcher {
namespace {

#ifdef GATEMILL_SANITIZED
constexpr int kSchedules = 100;
#else
constexpr int kSchedules = 600;
#endif
constexpr int kMostReported = 3;
constexpr int kDiskMib = 2;
constexpr int kRestarts = 12;

// A run's checkpoints. What CheckCheckpoint cannot see, damage in a block of rows, the simulated store's own checksums find: `full` reads
// every byte.
class RunKeeper final : public ps::CheckpointKeeper {
 public:
  explicit RunKeeper(std::string run_dir) : run_dir_(std::move(run_dir)), dir_(run_dir_ + "/checkpoints") {}

  Result<std::optional<std::uint64_t>> Newest() override {
    const auto newest = NewestCheckpoint(run_dir_, [](const std::string&) {});
    if (!newest && !train::ListCheckpoints(dir_).empty()) return DataLoss(dir_ + " has checkpoints, and none that is whole");
    if (!newest) {
      GM_RETURN_IF_ERROR(train::RemoveUnfinished(dir_));
      return std::optional<std::uint64_t>();
    }
    GM_ASSIGN_OR_RETURN(const train::Checkpoint loaded, train::LoadCheckpoint(newest->dir));
    if (loaded.cursor.step != newest->step || loaded.dense.size() != 1 || loaded.dense[0].values[0] != static_cast<float>(newest->step)) {
      return Internal(newest->dir + " is of another step than its name says");
    }
    GM_RETURN_IF_ERROR(train::FinishInterrupted(dir_, loaded.cursor));
    return std::optional<std::uint64_t>(newest->step);
  }
  [[nodiscard]] std::vector<std::uint64_t> Steps() const override {
    std::vector<std::uint64_t> steps;
    for (const std::string& dir : train::ListCheckpoints(dir_)) steps.push_back(train::StepOf(dir));
    return steps;
  }
  [[nodiscard]] std::string DirOf(std::uint64_t step) const override { return dir_ + "/" + train::CheckpointDirName(step); }
  Result<std::string> Begin(std::uint64_t step) override {
    GM_RETURN_IF_ERROR(train::RemoveUnfinished(dir_));
    const std::string dir = train::UnfinishedDir(dir_, step);
    GM_RETURN_IF_ERROR(MakeDirs(dir));
    train::Checkpoint checkpoint;
    checkpoint.cursor.step = step;
    checkpoint.config_yaml = "seed: 1\n";
    checkpoint.dense = {{.name = "step", .shape = {1}, .values = {static_cast<float>(step)}}};
    GM_RETURN_IF_ERROR(train::WriteWorkerFiles(dir, checkpoint));
    return dir;
  }
  Status Complete(std::uint64_t step) override {
    train::Cursor cursor;
    cursor.step = step;
    GM_RETURN_IF_ERROR(train::CompleteCheckpoint(dir_, cursor));
    (void)train::PruneCheckpoints(dir_, 2, step);  // it counts, whatever becomes of older ones
    return Ok();
  }
  Status GiveUp(std::uint64_t step) override { return RemoveTree(train::UnfinishedDir(dir_, step)); }
  std::uint64_t MarkDamaged(std::uint64_t from_step) override {
    std::uint64_t marked = 0;
    for (const std::string& dir : train::ListCheckpoints(dir_)) {
      if (train::StepOf(dir) < from_step) continue;
      const Status whole = train::CheckCheckpoint(dir, true);
      // The simulated store copies damaged blocks where RocksDB links damaged files, whose checksums the manifest keeps.
      const Status rows = whole.ok() ? VerifyRows(dir) : whole;
      if (rows.code() != Code::kDataLoss) continue;
      const Result<bool> first = train::MarkDamaged(dir, rows.message());
      marked += first.ok() && *first ? 1 : 0;
    }
    return marked;
  }
  [[nodiscard]] bool Protects(const std::string&) const override { return true; }

 private:
  static Status VerifyRows(const std::string& dir) {
    GM_ASSIGN_OR_RETURN(const auto tables, ps::ReadCheckpointTables(train::PsDir(dir)));
    for (std::uint32_t shard = 0; shard < tables.num_shards; ++shard) {
      GM_RETURN_IF_ERROR(ps::VerifySimCheckpoint(train::PsDir(dir) + "/" + ps::ShardDirName(shard, tables.num_shards)));
    }
    return Ok();
  }

  std::string run_dir_;
  std::string dir_;
};

// launch's part: what the supervisor is told of each job, and what it says.
class Launch {
 public:
  Launch(std::string run_dir, std::uint64_t seed, ps::Trace trace)
      : run_dir_(std::move(run_dir)),
        random_(seed, 20),
        trace_(std::move(trace)),
        supervisor_({.restarts = kRestarts, .resume_hint = "the same line"}) {}

  // Is there another job? An error when the supervisor does what its rules forbid.
  Result<bool> AfterJob(const ps::JobReport& report, ManualClock* clock) {
    if (!begun_) GM_RETURN_IF_ERROR(ExpectStart(supervisor_.Begin(clock->NowNs(), std::nullopt)));
    begun_ = true;
    (void)supervisor_.OnRanksMet(clock->NowNs());
    if (random_.Below(2) == 0) (void)supervisor_.OnRanksEnd(clock->NowNs(), report.well);
    JobEnd end{.exit_code = report.well ? 0 : report.cause.ok() ? 137 : report.cause.exit_code(), .began = true};
    end.cut = report.crashed;
    end.newest = NewestCheckpoint(run_dir_, [](const std::string&) {});
    if (!report.cause.ok() && IsCause(report.cause)) {
      end.failure = Failure{.step = report.steps, .code = NameOf(report.cause.code()), .error = report.cause.message(),
                            .rank = static_cast<int>(report.worker)};
    }
    const std::vector<Action> actions = supervisor_.OnJobEnd(clock->NowNs(), end);
    for (const Action& action : actions) trace_("launch: " + action.text);
    if (actions.empty()) return Internal("the supervisor has nothing to say to the end of a job");
    if (actions.back().kind == ActionKind::kEnd) return CheckEnd(report, actions.back());
    if (report.well) return Internal("a job that ended well is not the end");
    const std::int64_t wake_ns = supervisor_.wake_ns();
    if (wake_ns - clock->NowNs() > 60 * kNsPerSecond) return Internal("the next job is more than a minute away");
    clock->AdvanceNs(wake_ns - clock->NowNs());
    GM_RETURN_IF_ERROR(ExpectStart(supervisor_.OnTick(clock->NowNs())));
    ++restarts_;
    return true;
  }

 private:
  static Status ExpectStart(const std::vector<Action>& actions) {
    return actions.size() == 1 && actions[0].kind == ActionKind::kStart ? Ok() : Internal("the supervisor does not start a job");
  }
  // The end must be the right one, and say why.
  [[nodiscard]] Result<bool> CheckEnd(const ps::JobReport& report, const Action& end) const {
    if (report.well != (end.exit_code == 0)) return Internal("launch ends with " + std::to_string(end.exit_code) + ": " + end.text);
    if (report.well) return false;
    const bool used_up = restarts_ == kRestarts;
    const bool input = end.exit_code == 2 && report.cause.code() == Code::kInvalidInput;
    const bool same = end.text.find("as it did before") != std::string::npos && IsCause(report.cause) &&
                      end.text.find(report.cause.message()) != std::string::npos;
    if (used_up || input || same) return false;
    return Internal("launch gives up without a reason: " + end.text);
  }

  std::string run_dir_;
  RandomStream random_;
  ps::Trace trace_;
  Supervisor supervisor_;
  bool begun_ = false;
  int restarts_ = 0;
};

class RunSimulationTest : public testing::Test {
 protected:
  RunSimulationTest() : small_disk_(temp_.path() + "/disk", kDiskMib), disk_(&small_disk_) {}

  bool Run(std::uint64_t seed, const ps::Trace& trace) {
    const std::string run_dir = small_disk_.path();
    Launch launch(run_dir, seed, trace);
    const ps::ScheduleResult result = ps::RunSchedule(
        {.seed = seed,
         .dir = run_dir,
         .disk = &disk_,
         .trace = trace,
         .new_keeper = [&](const std::string&) { return std::make_unique<RunKeeper>(run_dir); },
         .starts_again = [&](const ps::JobReport& report, ManualClock* clock) { return launch.AfterJob(report, clock); }});
    for (const auto& [what, n] : result.counts) counts_[what] += n;
    if (!result.defect.empty()) {
      ADD_FAILURE() << result.defect << "\nagain: GATEMILL_TEST_SEED=" << seed << " launcher_simulation_test";
    }
    return result.defect.empty();
  }

  OneCore one_core_;
  TempDir temp_;
  SmallDisk small_disk_;
  ps::ClusterDisk disk_;
  std::map<std::string, std::uint64_t> counts_;
};

TEST_F(RunSimulationTest, EveryRunEndsInTheRightRowsOrAClearError) {
  if (const char* given = std::getenv("GATEMILL_TEST_SEED")) {
    Run(std::strtoull(given, nullptr, 10), [](const std::string& what) { std::fprintf(stderr, "%s\n", what.c_str()); });
    return;
  }
  const ps::Trace quiet = [](const std::string&) {};
  int failed = 0;
  const std::uint64_t first = std::random_device()();
  for (int i = 0; i < kSchedules && failed < kMostReported; ++i) failed += Run(first + static_cast<std::uint64_t>(i), quiet) ? 0 : 1;
  std::string summary;
  for (const auto& [what, n] : counts_) summary += (summary.empty() ? "" : ", ") + what + " " + std::to_string(n);
  std::printf("%d schedules at most: %s\n", kSchedules, summary.c_str());
  if (failed != 0) return;
  for (const char* what : {"done", "given up", "checkpoints", "crashed", "damaged", "marked as damaged"}) {
    EXPECT_GT(counts_[what], 0U) << what;
  }
}

}  // namespace
}  // namespace gatemill::launcher
