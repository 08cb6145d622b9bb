// Saves checkpoints while training goes on.
//
//   CheckpointSaver saver({.checkpoints_dir = run_dir + "/checkpoints", .keep = 2, ...});
//   GM_RETURN_IF_ERROR(saver.Begin(checkpoint, is_best));   // cut: everything as it is now; every worker, between two steps
//   ...                                                     // steps; worker 0 calls Look after each
//   GM_RETURN_IF_ERROR(saver.Finish());                     // every worker, at the end
//
// Worker 0 has the servers write their part and writes the rest on a thread of its own; a checkpoint counts when its manifest is
// there. Then the best one is marked and older ones go. One is written at a time: Begin waits for the one before.
//
// A checkpoint that cannot be written (a full disk) costs nothing but itself: that is logged, what was written of it is removed, and
// training goes on; the next one writes what this one would have. Only Finish returns why the last one failed: it was to be the
// run's result. What no later one would do better (servers whose files worker 0 does not see, damaged rows) is an error of any call. Errors of Begin are those of the other workers and servers, with which training cannot go on either.
//
// Thread safety: one thread per worker.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/executor.h"
#include "common/log.h"
#include "common/status.h"
#include "ps/client.h"
#include "worker/collective/collective.h"
#include "worker/train/checkpoint.h"

namespace gatemill::train {

struct SavedCheckpoint {
  std::uint64_t step = 0;
  std::string dir;
  bool best = false;
  double seconds = 0.0;  // from Begin until it counted
};

struct SaverOptions {
  std::string checkpoints_dir;
  int keep = 1;  // newest checkpoints, beside the best
  ps::Client* client = nullptr;
  collective::Collective* workers = nullptr;
  const Clock* clock = nullptr;
  Logger* log = nullptr;
  // Worker 0: one is complete. Called by Begin, Look and Finish.
  std::function<Status(const SavedCheckpoint&)> on_saved;
};

class CheckpointSaver {
 public:
  explicit CheckpointSaver(const SaverOptions& options);
  ~CheckpointSaver();  // what is under way is given up
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  // checkpoint.dense matters at worker 0 only. Returns the directory that it will have.
  Result<std::string> Begin(Checkpoint checkpoint, bool best);
  // How far is the one under way? Asks the servers some times a second. Worker 0's errors of on_saved.
  Status Look();
  // At worker 0: is one being written?
  [[nodiscard]] bool busy() const { return phase_ != Phase::kNone; }
  // Waits for the one under way. Every worker learns how the last one ended.
  Status Finish();

 private:
  struct Background;  // what the thread and the worker share

  [[nodiscard]] bool leader() const { return options_.workers->rank() == 0; }
  Status BeginAtLeader(Checkpoint checkpoint, bool best);
  Status Advance();
  Status FinishAtLeader();
  Status Share(const Status& status);
  Status Fail(const Status& why);

  enum class Phase : std::uint8_t { kNone, kServersWrite, kCompletes };

  SaverOptions options_;
  Phase phase_ = Phase::kNone;
  SavedCheckpoint saving_;
  Cursor cursor_;
  Status last_;  // how the last one ended
  std::int64_t begun_ns_ = 0;
  std::int64_t looked_ns_ = 0;
  std::shared_ptr<Background> background_;
  ThreadExecutor executor_{ThreadPriority::kLow};  // joined first
};

}  // namespace gatemill::train
