// One schedule of the simulation of the parameter server: a job that trains, writes checkpoints, fails and starts again from the newest
// whole one until it is done, all of it drawn from a seed.
//
//   const ScheduleResult result = RunSchedule({.seed = seed, .dir = dir, .disk = &disk});
//   EXPECT_EQ(result.defect, "");
//
// It is right when every pulled row and the final rows are (workload.h), when a job that is not disturbed ends well, and when one that is
// ends well or with an error that what happened to it explains.
// Thread safety: one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/ps/simulation/cluster.h"

namespace gatemill::ps {

// Where checkpoints' rows come from and go to.
struct StoreKind {
  // `dir`: scratch of the shard.
  std::function<Result<std::unique_ptr<RowStore>>(const std::string& dir, const std::function<bool()>& dies_here)> create;
  // Reads all of a shard's part of a checkpoint, from a disk that works.
  std::function<Status(const std::string& dir)> verify;
  // A disk that fails: switches its faults on and off, counts those so far, and forgets what below `dir` was not synced. Unset: none.
  std::function<void(bool on)> set_faults = {};
  std::function<std::uint64_t()> faults = {};
  std::function<void(const std::string& dir)> lose_power = {};
  bool misreads = false;  // its faults are of reads, too
};
StoreKind SimStoreKind();

// A job's checkpoints: how one comes to be and how the next job finds it.
class CheckpointKeeper {
 public:
  virtual ~CheckpointKeeper() = default;
  // When a job begins: the step of the newest that is not known to be damaged; none = it begins anew. What is left of unfinished ones goes.
  virtual Result<std::optional<std::uint64_t>> Newest() = 0;
  // Steps of all that are complete, damaged ones too, ascending.
  [[nodiscard]] virtual std::vector<std::uint64_t> Steps() const = 0;
  [[nodiscard]] virtual std::string DirOf(std::uint64_t step) const = 0;
  // Makes the directory of an unfinished one; the servers' part belongs into ps/ in it.
  virtual Result<std::string> Begin(std::uint64_t step) = 0;
  // The servers' part is written: from now on it counts. Older ones may go.
  virtual Status Complete(std::uint64_t step) = 0;
  virtual Status GiveUp(std::uint64_t step) = 0;
  // Damage was met by a job that began with the checkpoint of this step: which ones have it? How many are marked for the first time.
  virtual std::uint64_t MarkDamaged(std::uint64_t from_step) = 0;
  // Is a file of a checkpoint one whose damage must be found?
  [[nodiscard]] virtual bool Protects(const std::string& file) const = 0;
};

// How a job ended.
struct JobReport {
  bool well = false;
  bool crashed = false;    // something was killed
  Status cause;            // of the first worker that failed by itself; ok when all who failed were killed
  std::uint32_t worker = 0;
  std::uint64_t steps = 0;  // that worker 0 has trained
};

struct ScheduleOptions {
  std::uint64_t seed = 0;
  std::string dir;              // of its own; there is nothing in it, before and after
  ClusterDisk* disk = nullptr;  // that `dir` is on
  StoreKind store = SimStoreKind();
  Trace trace = {};             // of everything that happens
  // Makes what keeps the checkpoints in a directory; unset: ps parts in directories that count when they are renamed.
  std::function<std::unique_ptr<CheckpointKeeper>(const std::string& dir)> new_keeper = {};
  // After each job: is there another? An error is a defect. Unset: until one ends well.
  std::function<Result<bool>(const JobReport& report, ManualClock* clock)> starts_again = {};
};

struct ScheduleResult {
  std::string defect;                           // "" when all was right
  std::map<std::string, std::uint64_t> counts;  // how often what happened, by name
};

ScheduleResult RunSchedule(const ScheduleOptions& options);

}  // namespace gatemill::ps
