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
#include <string>

#include "tests/ps/simulation/cluster.h"

namespace gatemill::ps {

// Where checkpoints' rows come from and go to.
struct StoreKind {
  // `dir`: scratch of the shard.
  std::function<Result<std::unique_ptr<RowStore>>(const std::string& dir, const std::function<bool()>& dies_here)> create;
  // Reads all of a shard's part of a checkpoint.
  std::function<Status(const std::string& dir)> verify;
};
StoreKind SimStoreKind();

struct ScheduleOptions {
  std::uint64_t seed = 0;
  std::string dir;            // of its own; there is nothing in it, before and after
  ClusterDisk* disk = nullptr;  // that `dir` is on
  StoreKind store = SimStoreKind();
  Trace trace = {};           // of everything that happens
};

struct ScheduleResult {
  std::string defect;                          // "" when all was right
  std::map<std::string, std::uint64_t> counts;  // how often what happened, by name
};

ScheduleResult RunSchedule(const ScheduleOptions& options);

}  // namespace gatemill::ps
