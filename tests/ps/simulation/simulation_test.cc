// The parameter server under a seeded simulation of everything around it: schedule.h says what, cluster.h how.
//
// Seeds are new in every run; a failure says which one it was: GATEMILL_TEST_SEED=SEED runs that schedule alone and tells what happens.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>

#include "common/keys.h"
#include "common/random.h"
#include "tests/ps/simulation/faulty_file_system.h"
#include "tests/ps/simulation/schedule.h"
#include "tests/small_disk.h"
#include "tests/temp_dir.h"

namespace gatemill::ps {
namespace {

#ifdef GATEMILL_SANITIZED
constexpr int kSchedules = 300;
constexpr int kRocksSchedules = 15;
#else
constexpr int kSchedules = 1500;
constexpr int kRocksSchedules = 100;
#endif
constexpr int kMostReported = 3;
constexpr int kDiskMib = 2;
constexpr int kRocksDiskMib = 16;
constexpr std::uint32_t kTablesAtMost = 4;

// Run every time, beside new ones: each has found a defect, some of them one that was made for it.
constexpr std::array<std::uint64_t, 6> kKeptSeeds{
    1,           // a push that came again was applied again
    1035554100,  // a restore left out a vshard
    1199027331,  // a checkpoint had rows that were updated after its cut, in counters
    1199027384,  // the same, in trained tables
    1234893279,  // an erased key came back with the checkpoint
    3408035004,  // rows of a checkpoint that failed were missing from the next
};
constexpr std::array<std::uint64_t, 2> kKeptRocksSeeds{
    578501958,   // a file of which RocksDB could not read the ends lost its rows, and ended the process
    3404835035,  // after a full disk no checkpoint was written any more
};

// RocksDB on a disk that fails.
StoreKind RocksKind(std::uint64_t seed) {
  const std::shared_ptr<FaultyFileSystem> files = NewFaultyFileSystem(seed);
  RandomStream random(seed, 10);
  FileFaults faults;
  if (random.Below(2) == 0) faults.no_space = 0.03 * random.Uniform();
  if (random.Below(2) == 0) faults.write_error = 0.01 * random.Uniform();
  if (random.Below(2) == 0) faults.read_error = 0.02 * random.Uniform();
  if (random.Below(2) == 0) faults.flipped_bit = 0.02 * random.Uniform();
  StoreKind kind;
  kind.misreads = faults.read_error + faults.flipped_bit > 0.0;
  kind.create = [files](const std::string& dir, const std::function<bool()>& /*dies_here*/) {
    return CreateRowStore(dir, {.cache_bytes = 64U << 10, .file_system = files});
  };
  kind.verify = [](const std::string& dir) -> Status {
    GM_ASSIGN_OR_RETURN(const auto store, OpenRowStoreReadOnly(dir));
    for (std::uint32_t table = 0; table < kTablesAtMost; ++table) {
      GM_RETURN_IF_ERROR(store->Scan(table, 0, kNumVshards, [](std::uint64_t, std::span<const float>, const RowHeader&) { return Ok(); }));
    }
    return Ok();
  };
  kind.set_faults = [files, faults](bool on) { files->SetFaults(on ? faults : FileFaults()); };
  kind.faults = [files] { return files->faults(); };
  kind.lose_power = [files](const std::string& dir) { files->LosePower(dir); };
  return kind;
}

class SimulationTest : public testing::Test {
 protected:
  explicit SimulationTest(int disk_mib = kDiskMib) : small_disk_(temp_.path() + "/disk", disk_mib), disk_(&small_disk_) {}
  virtual StoreKind Kind(std::uint64_t /*seed*/) const { return SimStoreKind(); }

  // False when it is not right.
  bool Run(std::uint64_t seed, const Trace& trace = {}) {
    ScheduleResult result = RunSchedule({.seed = seed, .dir = small_disk_.path(), .disk = &disk_, .store = Kind(seed), .trace = trace});
    for (const auto& [what, n] : result.counts) counts_[what] += n;
    if (!result.defect.empty()) {
      ADD_FAILURE() << result.defect << "\nagain: GATEMILL_TEST_SEED=" << seed << " ps_simulation_test --gtest_filter="
                    << testing::UnitTest::GetInstance()->current_test_info()->test_suite_name() << "."
                    << testing::UnitTest::GetInstance()->current_test_info()->name();
    }
    return result.defect.empty();
  }
  static bool replays() { return std::getenv("GATEMILL_TEST_SEED") != nullptr; }
  void RunMany(int schedules, std::span<const std::uint64_t> kept) {
    if (replays()) {
      Run(std::strtoull(std::getenv("GATEMILL_TEST_SEED"), nullptr, 10),
          [](const std::string& what) { std::fprintf(stderr, "%s\n", what.c_str()); });
      return;
    }
    int failed = 0;
    for (const std::uint64_t seed : kept) failed += RunNamed(seed) ? 0 : 1;
    const std::uint64_t first = std::random_device()();
    for (int i = 0; i < schedules && failed < kMostReported; ++i) failed += RunNamed(first + static_cast<std::uint64_t>(i)) ? 0 : 1;
    std::string summary;
    for (const auto& [what, n] : counts_) summary += (summary.empty() ? "" : ", ") + what + " " + std::to_string(n);
    std::printf("%d schedules at most: %s\n", schedules, summary.c_str());
    if (!disk_.can_fill()) std::printf("no disk was full: %s cannot be mounted: %s\n", small_disk_.path().c_str(), small_disk_.why().c_str());
  }
  // RocksDB may end the process: then the last seed that was named is the one.
  bool RunNamed(std::uint64_t seed) {
    if (Kind(seed).set_faults) {
      std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
      std::fflush(stdout);
    }
    return Run(seed);
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

class RocksSimulationTest : public SimulationTest {
 protected:
  RocksSimulationTest() : SimulationTest(kRocksDiskMib) {}
  StoreKind Kind(std::uint64_t seed) const override { return RocksKind(seed); }
};

TEST_F(SimulationTest, EveryScheduleEndsInTheRightRowsOrAClearError) {
  RunMany(kSchedules, kKeptSeeds);
  if (HasFailure() || replays()) return;
  for (const char* what : {"done", "checkpoints", "crashed", "dropped", "repeated", "delayed", "overtaken", "cut", "refused",
                           "damaged", "marked as damaged", "ended with code 4", "ended with code 5"}) {
    ExpectHappened(what);
  }
  if (disk_.can_fill()) ExpectHappened("checkpoints given up");
}

TEST_F(RocksSimulationTest, EveryScheduleEndsInTheRightRowsOrAClearError) {
  RunMany(kRocksSchedules, kKeptRocksSeeds);
  if (HasFailure() || replays()) return;
  for (const char* what : {"done", "checkpoints", "checkpoints given up", "crashed"}) ExpectHappened(what);
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
