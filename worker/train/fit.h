// Training from the first step to the last: epochs, validation, early stopping, checkpoints, progress and metrics.jsonl.
//
// All workers call Fit together; worker 0 writes files and progress. Results are the same at every worker.
// metrics.jsonl: {"event":"train","step","epoch","loss","tasks":{TASK:{"loss"}},"samples_per_s"[,"gates":{TASK:[...]}]}
// every log_every_steps, {"event":"valid","step","epoch","tasks":{TASK:{METRIC}},"unseen":{FEATURE:share}} after an epoch,
// {"event":"checkpoint","step","dir","best","seconds"} when one is complete, some steps after its own.
// When trainer.leave is set, training ends at the step that the workers agree on, with a checkpoint and without validation;
// one that ends with that very step anyway ends as always.
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/log.h"
#include "worker/train/checkpoint.h"
#include "worker/train/metrics.h"
#include "worker/train/trainer.h"

namespace gatemill::train {

struct FitParts {
  TrainerParts trainer;
  data::ReadOptions read;                        // of the training part, when it streams
  std::shared_ptr<const data::Dataset> train;    // null: streamed from its files
  std::shared_ptr<const data::Dataset> valid;    // null: no validation
  data::Statistics statistics;
  std::string config_yaml;
  std::string run_dir;
  Logger* log = nullptr;
  bool quiet = false;                            // no progress line
  Cursor start;                                  // of the checkpoint that training goes on from
  std::string start_checkpoint;                  // its directory; "" for a fresh start
  std::uint64_t* steps_done = nullptr;           // how far training came, also when it failed; may be null
};

struct FitResult {
  Cursor cursor;                    // at the end
  std::uint64_t steps = 0;          // of this call
  std::uint64_t samples = 0;        // of this call, over all workers
  double train_seconds = 0.0;       // inside steps: without reading ahead of the first, validation and checkpoints
  TaskMetrics best_valid;           // of the best epoch seen by this call; empty without validation
  std::string best_checkpoint;      // directory of the best (without validation: the last) checkpoint
  bool left_early = false;          // on request: the newest checkpoint is of cursor.step
};

Result<FitResult> Fit(const FitParts& parts);

// Metrics as {TASK: {METRIC: value or null}}, for metrics.jsonl and --json.
std::string MetricsToJson(const TaskMetrics& metrics);
// "income auc .9512 logloss .1204   never_married auc .9944 ..." for a person.
std::string MetricsToText(const TaskMetrics& metrics);
// What early stopping and the best checkpoint watch: the configured metric, or mean(auc), or the loss.
std::string MonitorOf(const Config& config);

}  // namespace gatemill::train
