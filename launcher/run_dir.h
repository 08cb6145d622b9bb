// A run's directory as train and launch see it: how far its run has come, and why its last job failed.
//
//   const auto newest = NewestCheckpoint(run_dir, [&](const std::string& why) { log->Warn(why); });
//   GM_RETURN_IF_ERROR(RecordFailure(run_dir, {.step = 45, .code = "internal", .error = status.message(), .rank = 1}));
//
// Thread safety: free functions; ranks may record their failures at the same time.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "common/status.h"

namespace gatemill::launcher {

struct RunCheckpoint {
  std::uint64_t step = 0;
  std::string dir;
};

// The newest checkpoint of a run that is whole as train::CheckCheckpoint without `full` sees it. `passed_over` is told
// of newer ones that are not.
std::optional<RunCheckpoint> NewestCheckpoint(const std::string& run_dir,
                                              const std::function<void(const std::string& why)>& passed_over);

// What a rank that ends with an error of its own leaves behind as RUN/failure.json, for whoever starts the job again.
struct Failure {
  std::uint64_t step = 0;  // steps done; of a rank that is a server only: where its job began
  std::string code;        // NameOf
  std::string error;
  int rank = 0;
};

// "invalid_input", "data_loss", ...
std::string NameOf(Code code);
// Is this an error of the rank's own? Not one that only says that another rank is gone or silent, or that it was
// stopped.
bool IsCause(const Status& status);
// The first of a job's failures is kept: the others follow from it. It appears whole or not at all.
Status RecordFailure(const std::string& run_dir, const Failure& failure);
// None without a record, and for one that is no JSON object of ours.
std::optional<Failure> ReadFailure(const std::string& run_dir);
Status RemoveFailure(const std::string& run_dir);  // and what a rank that was killed left of one; none is ok

}  // namespace gatemill::launcher
