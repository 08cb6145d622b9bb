#include "worker/train/checkpoint_saver.h"

#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

#include "common/file.h"

namespace gatemill::train {
namespace {

constexpr std::int64_t kLookNs = 50 * kNsPerMs;  // between two questions to the servers
constexpr int kWaitMs = 5;

}  // namespace

struct CheckpointSaver::Background {
  mutable std::mutex mutex;
  bool completed = false;  // or failed; guarded by mutex, as is `status`
  Status status;

  void Note(const Status& ended) {
    const std::lock_guard lock(mutex);
    if (status.ok()) status = ended;
  }
  void Complete() {
    const std::lock_guard lock(mutex);
    completed = true;
  }
};

CheckpointSaver::CheckpointSaver(const SaverOptions& options) : options_(options) {}

CheckpointSaver::~CheckpointSaver() = default;

Result<std::string> CheckpointSaver::Begin(Checkpoint checkpoint, bool best) {
  // The cut is a step boundary: every worker's pushes of the steps before are with the servers, and none of a later one is.
  GM_RETURN_IF_ERROR(options_.client->Flush());
  GM_RETURN_IF_ERROR(options_.workers->Barrier());
  const std::string dir = options_.checkpoints_dir + "/" + CheckpointDirName(checkpoint.cursor.step);
  Status begun;
  if (leader()) begun = BeginAtLeader(std::move(checkpoint), best);
  GM_RETURN_IF_ERROR(Share(begun));
  return dir;
}

Status CheckpointSaver::BeginAtLeader(Checkpoint checkpoint, bool best) {
  GM_RETURN_IF_ERROR(FinishAtLeader());
  executor_.Drain();  // a failed one is removed, and not this one of its name
  cursor_ = checkpoint.cursor;
  saving_ = {.step = cursor_.step,
             .dir = options_.checkpoints_dir + "/" + CheckpointDirName(cursor_.step),
             .best = best,
             .seconds = 0.0};
  begun_ns_ = options_.clock->NowNs();
  looked_ns_ = begun_ns_;
  last_ = Ok();
  background_ = std::make_shared<Background>();
  const std::string dir = UnfinishedDir(options_.checkpoints_dir, cursor_.step);
  Status made = RemoveUnfinished(options_.checkpoints_dir);
  if (made.ok()) made = MakeDirs(dir);
  if (!made.ok()) return Fail(made);
  const Status cut = options_.client->BeginCheckpoint(cursor_.step, PsDir(dir));
  if (!cut.ok()) return Fail(cut);
  phase_ = Phase::kServersWrite;
  executor_.Run([background = background_, dir, checkpoint = std::move(checkpoint)] {
    background->Note(WriteWorkerFiles(dir, checkpoint));
  });
  return Ok();
}

Status CheckpointSaver::Look() {
  if (phase_ == Phase::kNone) return Ok();
  const std::int64_t now = options_.clock->NowNs();
  if (phase_ == Phase::kServersWrite && now - looked_ns_ < kLookNs) return Ok();
  looked_ns_ = now;
  return Advance();
}

Status CheckpointSaver::Advance() {
  if (phase_ == Phase::kServersWrite) {
    const Result<bool> done = options_.client->CheckpointDone();
    if (!done.ok()) {
      return Fail(done.status());
    }
    if (!*done) return Ok();
    phase_ = Phase::kCompletes;
    executor_.Run([background = background_, options = options_, cursor = cursor_, best = saving_.best] {
      {
        const std::lock_guard lock(background->mutex);
        if (!background->status.ok()) {
          background->completed = true;
          return;
        }
      }
      Status status = CompleteCheckpoint(options.checkpoints_dir, cursor);
      if (status.ok() && best) status = MarkBest(options.checkpoints_dir, cursor.step);
      if (status.ok()) {  // it counts, whatever becomes of older ones
        const Status pruned = PruneCheckpoints(options.checkpoints_dir, options.keep, cursor.step);
        if (!pruned.ok()) options.log->Warn(pruned.Annotate("an old checkpoint stays").message());
      }
      background->Note(status);
      background->Complete();
    });
    return Ok();
  }
  Status ended;
  {
    const std::lock_guard lock(background_->mutex);
    if (!background_->completed) return Ok();
    ended = background_->status;
  }
  if (!ended.ok()) return Fail(ended);
  phase_ = Phase::kNone;
  saving_.seconds = static_cast<double>(options_.clock->NowNs() - begun_ns_) * 1e-9;
  return options_.on_saved ? options_.on_saved(saving_) : Ok();
}

// Not ok: no later one would go better.
Status CheckpointSaver::Fail(const Status& why) {
  phase_ = Phase::kNone;
  last_ = why.Annotate("the checkpoint of step " + std::to_string(cursor_.step) + " was not written");
  const bool hopeless = why.code() == Code::kDataLoss;
  if (!hopeless) options_.log->Warn(last_.message() + "; training goes on, and older checkpoints are as they were");
  // After what the thread still has to do for it. Space is what may be missing.
  executor_.Run([dir = UnfinishedDir(options_.checkpoints_dir, cursor_.step)] { (void)RemoveTree(dir); });
  return hopeless ? last_ : Ok();
}

// The servers' and the disk's deadlines are CheckpointDone's.
Status CheckpointSaver::FinishAtLeader() {
  while (phase_ != Phase::kNone) {
    GM_RETURN_IF_ERROR(Advance());
    if (phase_ == Phase::kNone) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(kWaitMs));
  }
  return Ok();
}

Status CheckpointSaver::Finish() {
  Status ended;
  if (leader()) {
    ended = FinishAtLeader();
    if (ended.ok()) ended = last_;
  }
  return Share(ended);
}

// Worker 0's status, at every worker.
Status CheckpointSaver::Share(const Status& status) {
  const std::string mine = std::string(1, static_cast<char>(status.code())) + status.message();
  GM_ASSIGN_OR_RETURN(const std::string first, options_.workers->Broadcast(mine, 0));
  if (first.empty()) return Internal("worker 0 sent no status");
  return {static_cast<Code>(first[0]), first.substr(1)};
}

}  // namespace gatemill::train
