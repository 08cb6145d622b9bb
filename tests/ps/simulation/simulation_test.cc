// The parameter server under a seeded simulation of everything around it: schedule.h says what, cluster.h how.
//
// Seeds are new in every run; a failure says which one it was: GATEMILL_TEST_SEED=SEED runs that schedule alone and tells what happens.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>

#include "tests/ps/simulation/schedule.h"
#include "tests/small_disk.h"
#include "tests/temp_dir.h"

namespace gatemill::ps {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kSchedules = 300;
#else
constexpr int kSchedules = 4000;
#endif
constexpr int kMostReported = 3;
constexpr int kDiskMib = 2;

// Seeds that found something.
constexpr std::array<std::uint64_t, 2> kKeptSeeds{1, 1035554100};

class SimulationTest : public testing::Test {
 protected:
  SimulationTest() : small_disk_(temp_.path() + "/disk", kDiskMib), disk_(&small_disk_) {}

  // False when it is not right.
  bool Run(std::uint64_t seed, const Trace& trace = {}) {
    ScheduleResult result = RunSchedule({.seed = seed, .dir = small_disk_.path(), .disk = &disk_, .trace = trace});
    for (const auto& [what, n] : result.counts) counts_[what] += n;
    if (!result.defect.empty()) {
      ADD_FAILURE() << result.defect << "\nagain: GATEMILL_TEST_SEED=" << seed << " ps_simulation_test --gtest_filter="
                    << testing::UnitTest::GetInstance()->current_test_info()->test_suite_name() << "."
                    << testing::UnitTest::GetInstance()->current_test_info()->name();
    }
    return result.defect.empty();
  }
  void RunMany(int schedules) {
    const char* given = std::getenv("GATEMILL_TEST_SEED");
    if (given != nullptr) {
      Run(std::strtoull(given, nullptr, 10), [](const std::string& what) { std::fprintf(stderr, "%s\n", what.c_str()); });
      return;
    }
    int failed = 0;
    for (const std::uint64_t seed : kKeptSeeds) failed += Run(seed) ? 0 : 1;
    const std::uint64_t first = std::random_device()();
    for (int i = 0; i < schedules && failed < kMostReported; ++i) failed += Run(first + static_cast<std::uint64_t>(i)) ? 0 : 1;
    std::string summary;
    for (const auto& [what, n] : counts_) summary += (summary.empty() ? "" : ", ") + what + " " + std::to_string(n);
    std::printf("%d schedules at most: %s\n", schedules, summary.c_str());
    if (!disk_.can_fill()) std::printf("no disk was full: %s cannot be mounted: %s\n", small_disk_.path().c_str(), small_disk_.why().c_str());
  }
  void ExpectHappened(const char* what) const {
    const auto found = counts_.find(what);
    EXPECT_TRUE(found != counts_.end() && found->second != 0) << what;
  }

  OneCore one_core_;
  TempDir temp_;
  SmallDisk small_disk_;
  ClusterDisk disk_;
  std::map<std::string, std::uint64_t> counts_;
};

TEST_F(SimulationTest, EveryScheduleEndsInTheRightRowsOrAClearError) {
  RunMany(kSchedules);
  if (HasFailure() || std::getenv("GATEMILL_TEST_SEED") != nullptr) return;
  for (const char* what : {"done", "checkpoints", "crashed", "dropped", "repeated", "delayed", "overtaken", "cut", "refused",
                           "damaged", "marked as damaged", "ended with code 4", "ended with code 5"}) {
    ExpectHappened(what);
  }
  if (disk_.can_fill()) ExpectHappened("checkpoints given up");
}

TEST_F(SimulationTest, ASeedReplays) {
  const auto trace_of = [&](std::uint64_t seed) {
    std::string all;
    Run(seed, [&](const std::string& what) { all += what + "\n"; });
    return all;
  };
  for (const std::uint64_t seed : {3ULL, 4ULL, 5ULL}) {
    const std::string first = trace_of(seed);
    EXPECT_FALSE(first.empty());
    EXPECT_EQ(first, trace_of(seed)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace gatemill::ps
