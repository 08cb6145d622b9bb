// What tests of launch share: a job of their own on small data, its processes, its run, what it leaves. When a test ends,
// nothing may be left of its jobs.
//
//   class MyTest : public LaunchFixture {
//    protected:
//     MyTest() : LaunchFixture({.servers = 2, .workers = 2}, {"--set", "train.num_epochs=30"}) {}
//   };
//   TEST_F(MyTest, ...) { Process launch(Launch()); ... ::kill(Ranks(3)[0], SIGKILL); ... }
//
// Thread safety: none.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "tests/launcher/commands.h"

namespace gatemill::launcher {

// Processes of this machine, by the name of their directory in /proc, that are `wanted`.
std::vector<pid_t> Processes(const std::function<bool(const std::string& proc)>& wanted);
// Those that train in `run_dir`; `rank`: that one only.
std::vector<pid_t> RanksOf(const std::string& run_dir, int rank = -1);
// A file's contents, "" when there is none (any more).
std::string ReadIfThere(const std::string& path);
// The names in a directory, sorted; none when it is not there.
std::vector<std::string> NamesIn(const std::string& dir);

class LaunchFixture : public testing::Test {
 protected:
  static constexpr int kSeconds = 120;
  static constexpr int kWaitMs = 60000;
  static constexpr int kEndMs = 10000;  // from the death of launch to the end of the last rank

  struct Layout {
    int servers = 0;
    int workers = 0;
  };
  // `settings`: words for train, in each of this test's commands. `write_job` writes data and configuration into the directory and
  // returns the configuration's path.
  LaunchFixture(const Layout& layout, std::vector<std::string> settings,
                const std::function<std::string(const TempDir&)>& write_job);
  LaunchFixture(const Layout& layout, std::vector<std::string> settings);
  ~LaunchFixture() override;

  // Words for launch and for train, behind those of the layout and the test's settings.
  [[nodiscard]] std::vector<std::string> Launch(const std::vector<std::string>& launch = {},
                                                const std::vector<std::string>& train = {}) const {
    return LaunchOf(layout_, run_, launch, train);
  }
  [[nodiscard]] std::vector<std::string> LaunchOf(const Layout& layout, const std::string& run,
                                                  const std::vector<std::string>& launch,
                                                  const std::vector<std::string>& train) const;
  // With this test's directory as the one for temporary files.
  [[nodiscard]] std::vector<std::string> InOwnTmp(std::vector<std::string> command) const;
  void AddSettings(std::vector<std::string>* command) const;

  [[nodiscard]] std::vector<pid_t> Ranks(int number = -1) const { return RanksOf(run_, number); }
  static std::vector<pid_t> MpirunOf(const Process& launch);
  // All that this test has started and what that has started, by their environment.
  [[nodiscard]] std::vector<pid_t> OwnProcesses() const;
  // What jobs have left in the directory for temporary files, Open MPI's included.
  [[nodiscard]] std::vector<std::string> Scratch() const;
  // The shared memory of ranks that run: it must go with them.
  [[nodiscard]] std::set<std::string> SharedMemory() const;

  // The step of the newest checkpoint, 0 without one.
  [[nodiscard]] int NewestStep() const;
  bool AwaitCheckpoint(Process* launch, int step) const;
  static bool AwaitWords(Process* launch, const std::string& words);
  static bool AwaitEndOf(Process* launch, const std::vector<pid_t>& pids);

  // What a run has ended with, from the job that ended it. The bits are those of all tables and the dense part.
  struct Ended {
    nlohmann::json result = nlohmann::json::object();
    std::string best;                // the bits of what export takes from the run
    std::string newest;              // the bits of its last checkpoint
    std::vector<std::string> names;  // of all that is in the run and among its checkpoints, and the best one's
  };
  static Ended EndOf(const std::string& run, const Finished& done);
  static void ExpectSame(const Ended& disturbed, const Ended& whole);

  const TempDir dir_;
  const std::string config_;
  const std::string run_;

 private:
  const Layout layout_;
  const std::vector<std::string> settings_;
};

}  // namespace gatemill::launcher
