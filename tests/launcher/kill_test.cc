// launch with 2 servers and 3 workers, of which one process is killed again and again at random moments: the run goes on by
// itself within seconds, ends with every bit of one that nobody disturbed, and leaves nothing.
//
// The moments are drawn from a seed, which is printed: GATEMILL_TEST_SEED=SEED draws them again. They are steps and
// milliseconds, so a run replays as well as its timing allows.

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/random.h"
#include "tests/launcher/launch_fixture.h"
#include "tests/launcher/small_data.h"

namespace gatemill::launcher {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

#ifdef GATEMILL_SANITIZED
constexpr int kKills = 6;
constexpr double kMostSeconds = 60.0;
#else
constexpr int kKills = 20;
constexpr double kMostSeconds = 15.0;  // from a kill to the next step that is trained
#endif
constexpr int kServers = 2;
constexpr int kWorkers = 3;
constexpr int kEpochs = 4 * kKills;
constexpr int kSteps = 32 * kEpochs;
constexpr int kLastKillStep = kSteps * 9 / 10;
constexpr int kEventMs = 60000;             // for each single thing to happen
constexpr int kMostAfterRestartMs = 2500;   // by then a job trains
constexpr int kMostStepsAfterRestart = 50;  // so that it cannot come to its end
constexpr int kMostInCheckpointMs = 15;     // by then one is nearly written

enum class When : std::uint8_t { kAtStep, kInCheckpoint, kAfterRestart };
enum class Victim : std::uint8_t { kServer, kWorker, kMpirun };

struct Kill {
  When when = When::kAtStep;
  Victim victim = Victim::kServer;
  int rank = 0;     // mpirun has none
  int step = 0;     // not before it is trained; soon after a restart whatever was trained
  int wait_ms = 0;  // from that step, the checkpoint's beginning or the restart
};

std::uint64_t Seed() {
  const char* given = std::getenv("GATEMILL_TEST_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
}

// A third of each kind of victim.
std::vector<Kill> DrawKills(std::uint64_t seed) {
  constexpr std::array kMoments{When::kAtStep, When::kInCheckpoint, When::kAfterRestart, When::kInCheckpoint, When::kAtStep};
  RandomStream random(seed, 0);
  const auto below = [&](int n) { return static_cast<int>(random.Below(static_cast<std::uint64_t>(n))); };
  std::array<int, kKills> steps{};
  for (int& step : steps) step = 1 + below(kLastKillStep);
  std::sort(steps.begin(), steps.end());
  std::array<int, kKills> victims{};
  std::iota(victims.begin(), victims.end(), 0);
  for (int left = kKills; left > 1; --left) {
    std::swap(victims[static_cast<std::size_t>(left - 1)], victims[static_cast<std::size_t>(below(left))]);
  }
  std::vector<Kill> kills;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    Kill kill{.when = kMoments[i % kMoments.size()], .victim = static_cast<Victim>(victims[i] % 3), .step = steps[i]};
    kill.rank = kill.victim == Victim::kServer ? below(kServers) : kServers + below(kWorkers);
    kill.wait_ms = below(kill.when == When::kAfterRestart ? kMostAfterRestartMs : kMostInCheckpointMs);
    kills.push_back(kill);
  }
  return kills;
}

std::string Describe(const Kill& kill) {
  const std::string who = kill.victim == Victim::kMpirun ? "mpirun" : "rank " + std::to_string(kill.rank);
  const std::string wait = std::to_string(kill.wait_ms) + " ms ";
  if (kill.when == When::kAfterRestart) return who + " " + wait + "after the restart";
  return who + " " + wait + (kill.when == When::kInCheckpoint ? "into a checkpoint after" : "after") + " step " +
         std::to_string(kill.step);
}

// Follows the steps that RUN/metrics.jsonl tells of.
class Metrics {
 public:
  explicit Metrics(std::string path) : path_(std::move(path)) {}

  // The last one that was trained, by whichever job.
  [[nodiscard]] int step() const { return step_; }
  // How often one was trained, a step that was lost included.
  [[nodiscard]] int steps() const { return steps_; }

  void Read() {
    std::ifstream file(path_, std::ios::binary);
    file.seekg(static_cast<std::streamoff>(read_));
    for (std::string line; std::getline(file, line) && !file.eof();) {
      read_ += line.size() + 1;
      const json event = json::parse(line, nullptr, false);
      if (event.is_discarded() || event.value("event", "") != "train") continue;
      step_ = event.at("step").get<int>();
      ++steps_;
    }
  }

 private:
  const std::string path_;
  std::size_t read_ = 0;
  int step_ = 0;
  int steps_ = 0;
};

class KillTest : public LaunchFixture {
 protected:
  KillTest()
      : LaunchFixture({.servers = kServers, .workers = kWorkers},
                      {"--set", "train.num_epochs=" + std::to_string(kEpochs), "--set", "train.log_every_steps=1",
                       "--set", "train.checkpoint={every_steps: 20, every_epochs: 0}"}),
        metrics_(run_ + "/metrics.jsonl") {}

  // Waits for its moment and kills. False when the moment does not come.
  bool Carry(const Kill& kill, Process* launch) {
    const pid_t victim = kill.when == When::kAfterRestart ? AwaitRestarted(kill, launch) : AwaitStep(kill, launch);
    if (victim <= 0 || ::kill(victim, SIGKILL) != 0) return false;
    after_.push_back({.killed = Clock::now()});
    const std::string words = "; restart " + std::to_string(after_.size()) + " of ";
    if (!AwaitWords(launch, words)) return false;
    EXPECT_EQ(OwnProcesses().size(), 1U) << "launch alone is left before a restart";
    metrics_.Read();
    after_.back().steps = metrics_.steps();
    between_jobs_ = fs::file_time_type::clock::now();
    return true;
  }

  // Has a step been trained since the last kill?
  bool Trains() {
    metrics_.Read();
    for (After& after : after_) {
      if (after.steps < 0 || after.seconds >= 0.0 || metrics_.steps() <= after.steps) continue;
      after.seconds = std::chrono::duration<double>(Clock::now() - after.killed).count();
    }
    return after_.empty() ? metrics_.steps() > 0 : after_.back().seconds >= 0.0;
  }

  // How long it took from each kill to the next step, another kill between them included.
  [[nodiscard]] std::vector<double> SecondsToTrain() const {
    std::vector<double> all;
    for (const After& after : after_) all.push_back(after.seconds);
    return all;
  }

  [[nodiscard]] const std::set<std::string>& shared_memory() const { return shared_memory_; }

 private:
  struct After {
    Clock::time_point killed;
    int steps = -1;         // trained so far when the next job was about to start
    double seconds = -1.0;  // until the next one was
  };

  pid_t AwaitRestarted(const Kill& kill, Process* launch) {
    const Clock::time_point moment = Clock::now() + milliseconds(kill.wait_ms);
    const int steps = metrics_.steps();
    (void)launch->WaitFor(kEventMs, [&](const Process& p) {
      (void)Trains();
      return Clock::now() >= moment || metrics_.steps() >= steps + kMostStepsAfterRestart || !p.running();
    });
    return Find(kill, launch);
  }

  pid_t AwaitStep(const Kill& kill, Process* launch) {
    (void)launch->WaitFor(kEventMs, [&](const Process& p) {
      return (Trains() && metrics_.step() >= kill.step) || !p.running();
    });
    const pid_t victim = Find(kill, launch);
    shared_memory_.merge(SharedMemory());
    if (kill.when == When::kInCheckpoint) return AwaitCheckpointUnderWay(kill.wait_ms, launch) ? victim : -1;
    std::this_thread::sleep_for(milliseconds(kill.wait_ms));
    return victim;
  }

  pid_t Find(const Kill& kill, Process* launch) {
    std::vector<pid_t> found;
    (void)launch->WaitFor(kEventMs, [&](const Process& p) {
      found = kill.victim == Victim::kMpirun ? MpirunOf(p) : Ranks(kill.rank);
      return !found.empty() || !p.running();
    });
    return found.size() == 1 ? found[0] : -1;
  }

  // One that has been written for so long and still is.
  bool AwaitCheckpointUnderWay(int wait_ms, Process* launch) {
    const Clock::time_point deadline = Clock::now() + milliseconds(kEventMs);
    while (Clock::now() < deadline && launch->running()) {
      if (CheckpointUnderWay()) {
        std::this_thread::sleep_for(milliseconds(wait_ms));
        if (CheckpointUnderWay()) return true;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    return false;
  }

  // By the job that runs: what a killed one has left of a checkpoint stays until the next is begun.
  [[nodiscard]] bool CheckpointUnderWay() const {
    const std::string dir = run_ + "/checkpoints/";
    const std::vector<std::string> names = NamesIn(dir);
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
      std::error_code gone;
      return name.starts_with("step-") && name.ends_with(".tmp") && fs::last_write_time(dir + name, gone) > between_jobs_ &&
             !gone;
    });
  }

  Metrics metrics_;
  std::vector<After> after_;  // each kill
  std::set<std::string> shared_memory_;
  fs::file_time_type between_jobs_ = fs::file_time_type::min();  // when none ran last
};

TEST_F(KillTest, KillsAtRandomMomentsCostNoBitAndLeaveNothing) {
  const std::uint64_t seed = Seed();
  RecordProperty("seed", std::to_string(seed));
  std::printf("GATEMILL_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  Process launch(Launch({"--restarts", "1000"}));
  for (const Kill& kill : DrawKills(seed)) {
    std::printf("%s\n", Describe(kill).c_str());
    std::fflush(stdout);
    ASSERT_TRUE(Carry(kill, &launch)) << "launch " << launch.exit_code() << "\n" << launch.err();
  }
  ASSERT_TRUE(launch.WaitFor(kEventMs, [&](const Process& p) { return Trains() || !p.running(); })) << launch.err();
  const Finished done = Finish(&launch, kSeconds);
  EXPECT_EQ(Process::Count(done.err, "; restart "), kKills);
  EXPECT_EQ(Process::Count(done.err, " steps: "), 0) << "what follows from a kill is no failure of a rank";
  for (const std::string& file : shared_memory()) EXPECT_FALSE(FileExists(file)) << file;

  std::vector<double> seconds = SecondsToTrain();
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  const double most = seconds.back();
  std::printf("from a kill to the next step: median %.2f s, maximum %.2f s\n", median, most);
  RecordProperty("median_seconds", std::to_string(median));
  RecordProperty("maximum_seconds", std::to_string(most));
  EXPECT_GE(seconds.front(), 0.0) << "none was trained";
  EXPECT_LE(most, kMostSeconds);

  const Ended killed = EndOf(run_, done);
  const std::string other = dir_.path() + "/undisturbed";
  const Ended whole = EndOf(other, RunProgram(LaunchOf({.servers = kServers, .workers = kWorkers}, other, {}, {}), kSeconds));
  EXPECT_EQ(killed.result.value("steps", 0), kSteps);
  ExpectSame(killed, whole);
  if (HasFailure()) std::printf("%s", done.err.c_str());
}

}  // namespace
}  // namespace gatemill::launcher
