// A checkpoint on disk, whole:
//   RUN/checkpoints/step-000000120/
//     manifest.json       written last, by rename: format version, step, and every other file with size and checksum
//     dense.safetensors   parameters, batch-norm statistics and optimizer state
//     worker.json         where training stands, statistics of the transforms, columns of the data
//     config.yaml         the resolved configuration
//     ps/                 the servers' part, see ps/checkpoint.h
//   RUN/checkpoints/best  a symbolic link to the best one, when there is a valid part
//   RUN/checkpoints/damaged-step-000000120   why it is not to be used: what was found when its tables were read
// A directory without a valid manifest is not a checkpoint. A checkpoint is never written to again. While one is being written it
// is named step-000000120.tmp (worker/train/checkpoint_saver.h writes it).
//
// Errors: kInvalidInput for a path that is neither run nor checkpoint; kDataLoss for a damaged one, naming the file.
// Thread safety: free functions, safe on different directories.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/data/dataset.h"
#include "worker/model/dense_model.h"

namespace gatemill::train {

inline constexpr int kCheckpointFormat = 1;

// Where training stands: what a resume goes on from.
struct Cursor {
  std::uint64_t step = 0;        // steps done
  std::uint64_t epoch = 0;       // the epoch under way
  std::uint64_t next_batch = 0;  // its next global batch
  std::uint64_t samples = 0;     // trained so far
  std::optional<double> best_value;  // of the monitored metric
  std::uint64_t best_step = 0;
  int epochs_without_improvement = 0;
};

struct Checkpoint {
  Cursor cursor;
  data::Statistics statistics;
  std::vector<std::string> columns;  // of the data it was trained on
  std::string config_yaml;
  std::vector<model::DenseModel::Tensor> dense;
};

std::string CheckpointDirName(std::uint64_t step);
std::string PsDir(const std::string& checkpoint_dir);

// `checkpoints_dir` is RUN/checkpoints.
std::string UnfinishedDir(const std::string& checkpoints_dir, std::uint64_t step);
// Everything but the servers' part and the manifest, into an existing directory.
Status WriteWorkerFiles(const std::string& dir, const Checkpoint& checkpoint);
// UnfinishedDir has all files but the manifest: that is written, and the checkpoint has its name. One of the same step is replaced,
// of another run that went on from an older one. Checksums of files that the newest checkpoint has too (hard links) are its.
Status CompleteCheckpoint(const std::string& checkpoints_dir, const Cursor& cursor);
// What was being written, or removed, when a process ended.
Status RemoveUnfinished(const std::string& checkpoints_dir);
// Before training goes on from a checkpoint with this cursor: what the process before it was ended in the middle of. That includes
// the mark of the best one, which comes behind its name.
Status FinishInterrupted(const std::string& checkpoints_dir, const Cursor& cursor);
// Points RUN/checkpoints/best at a step's checkpoint.
Status MarkBest(const std::string& checkpoints_dir, std::uint64_t step);
// Of the checkpoints up to that of step `newest`, removes those that are older than the `keep` newest undamaged ones, never the best.
Status PruneCheckpoints(const std::string& checkpoints_dir, int keep, std::uint64_t newest);

// The step in a checkpoint's name.
std::uint64_t StepOf(const std::string& checkpoint_dir);
// Damage was found where CheckCheckpoint without `full` does not look: from now on it fails. The first reason is kept; false: there was one.
Result<bool> MarkDamaged(const std::string& dir, const std::string& why);
// It was read as a whole and is not damaged, or a new one has its name.
Status RemoveDamagedMark(const std::string& dir);

// Checkpoint directories with a manifest, oldest first.
std::vector<std::string> ListCheckpoints(const std::string& checkpoints_dir);
// What `path` means to eval, predict, inspect and export: a checkpoint itself; of a run the best, else the newest.
Result<std::string> ResolveCheckpoint(const std::string& path);
// Reads everything but the servers' part, after CheckCheckpoint(dir, false).
Result<Checkpoint> LoadCheckpoint(const std::string& dir);
// Are all files there with their sizes, all but those of the tables' rows with their checksums, and is it not marked as damaged?
// `full`: whatever it is marked as, does every file have its checksum?
Status CheckCheckpoint(const std::string& dir, bool full);

}  // namespace gatemill::train
