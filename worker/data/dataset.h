// Files -> columns in memory -> batches.
//
// Reading: CSV and TSV, plain or .gz (Arrow's reader), several files and globs, on background threads. Sparse values
// become keys at once; dense values stay numbers until the transforms are fitted. Each table has a dictionary of the
// distinct keys read so far, and a column holds positions in it: 4 bytes a value, and a batch's dedup needs no hashing.
//
// Errors are kInvalidInput and name file, line, column and value: a missing or empty file, a truncated .gz, a row with
// too few or too many columns, text where a number belongs, a label outside {0, 1} (bce) or NaN, an unknown column.
//
// Missing values: sparse, the missing value has an own key (a list is empty instead: zeros); dense, 0 after all
// transforms; a label or weight must not be missing; samples whose group is missing are one group.
//
// Thread safety: a Dataset is immutable once read and may be shared; a BatchStream belongs to one thread (it has its
// own threads inside).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/log.h"
#include "common/status.h"
#include "worker/data/schema.h"

namespace gatemill::data {

// ---- statistics of the training part, kept in the checkpoint ---------------------------------------------------
struct DenseStatistics {  // per dense feature, in schema order; of the values as they reach the transform
  double min = 0.0;       // minmax: (clip(v, min, max) - min) / (max - min); 0 where max == min
  double max = 0.0;
  double mean = 0.0;      // zscore: (v - mean) / std; 0 where std == 0
  double std = 0.0;
};
struct Statistics {
  std::vector<DenseStatistics> dense;
  std::vector<std::vector<double>> sparse_boundaries;  // per sparse feature with bucketize; else empty
  std::vector<std::vector<double>> dense_boundaries;   // per dense feature with bucketize; else empty
};
std::string StatisticsToJson(const Statistics& statistics);
Result<Statistics> StatisticsFromJson(const std::string& json);

// ---- batches --------------------------------------------------------------------------------------------------------
struct FeatureBatch {               // one per sparse feature
  std::vector<std::uint32_t> slots;    // [values]: row in its table's TableBatch
  std::vector<std::uint32_t> offsets;  // [rows + 1] into slots for lists; empty = exactly one value a sample
};
// A use of a key that reads and trains an oov row instead if the key has no row yet. Its slot is the key's own until
// the servers have said which keys have rows (train/table_parts.h, RouteUnseen).
struct OovUse {
  std::uint32_t feature = 0;   // position in Batch::sparse
  std::uint32_t position = 0;  // in that feature's slots
  std::uint32_t oov = 0;       // position in TableBatch::oov
};
struct TableBatch {                 // one per Schema::tables
  std::vector<std::uint64_t> keys;     // [n] distinct, in order of first use
  std::vector<std::uint32_t> counts;   // [n] uses in this batch
  std::vector<std::uint64_t> oov;      // [m] distinct oov buckets of the next two; slot of the j-th is n + j
  std::vector<OovUse> oov_uses;        // training only
  std::vector<std::uint32_t> oov_slots;  // the same, of a table that admits: [n] positions in oov of the keys' buckets
  std::vector<std::uint64_t> seen;     // set after training: distinct keys without a row of their own
  [[nodiscard]] std::size_t slots() const { return keys.size() + oov.size(); }
};
struct Batch {
  std::uint64_t epoch = 0;
  std::uint64_t index = 0;            // of the global batch in the epoch, from 0
  std::uint64_t global_rows = 0;      // samples of the global batch, over all workers
  std::uint64_t rows = 0;             // samples here; may be 0
  bool last_of_epoch = false;
  std::vector<FeatureBatch> sparse;   // Schema::sparse
  std::vector<TableBatch> tables;     // Schema::tables
  std::vector<float> dense;           // [rows, dense_dim]
  std::vector<float> labels;          // [tasks, rows]
  std::vector<float> weights;         // [rows], or empty = all 1
  std::vector<float> task_weights;    // [tasks, rows] of tasks with a sample_weight or a task space besides, or empty = all 1
  std::vector<std::uint64_t> groups;  // [Schema::groups, rows] keys of the values; empty where a dataset keeps none
  std::vector<std::uint64_t> samples; // [rows] the sample's number in its part, in file order: names it in random draws
  std::int64_t assemble_ns = 0;       // time a background thread took to gather and dedup this batch
};

// ---- a part of the data ------------------------------------------------------------------------------------------
enum class Part { kTrain, kValid, kTest };

struct ReadOptions {
  const Schema* schema = nullptr;
  const DataConfig* data = nullptr;
  Logger* log = nullptr;
  std::uint64_t seed = 1;
  const std::atomic<bool>* stop = nullptr;  // reading ends with kCancelled when it becomes true; may be null
  bool labels = true;                       // false: label, weight and group columns may be absent (predict)
};

class Dataset {
 public:
  virtual ~Dataset() = default;
  [[nodiscard]] virtual std::uint64_t rows() const = 0;
  [[nodiscard]] virtual std::uint64_t memory_bytes() const = 0;
};

// Reads a whole part; of one that is evaluated (valid, test), with labels, also the keys of Schema::groups. Statistics: fitted on
// what is read when `fit`, else applied as given.
// `files`: what to read instead of the configuration's part (eval, predict), with its own where; else null.
Result<std::shared_ptr<const Dataset>> ReadDataset(const ReadOptions& options, Part part, const PartConfig* files,
                                                   bool fit, Statistics* statistics);

struct BatchOptions {
  std::uint64_t global_batch_size = 1024;
  std::uint32_t worker = 0;
  std::uint32_t num_workers = 1;
  std::uint64_t seed = 1;
  std::uint64_t epoch = 0;
  bool shuffle = true;             // by (seed, epoch); the same global batches for every number of workers
  bool drop_to_oov = true;         // training: draw uses that train an oov row if their key has no row (Table::oov_ratio)
  std::uint64_t first_batch = 0;   // resume in the middle of an epoch
  int read_ahead = 4;              // batches made ahead by background threads
};

class BatchStream {
 public:
  virtual ~BatchStream() = default;
  // The next batch of the epoch, or nothing at its end. Waits for the background threads at most deadline_ms.
  // A worker's part of global batch i is rows [i*B + w*b/W, i*B + (w+1)*b/W) of the epoch's order, b = rows in it.
  virtual Result<std::optional<Batch>> Next(int deadline_ms) = 0;
  // Gives a batch's vectors back so that their memory is used again.
  virtual void Recycle(Batch batch) = 0;
};

// One epoch over a dataset in memory.
Result<std::unique_ptr<BatchStream>> StreamDataset(std::shared_ptr<const Dataset> dataset, const BatchOptions& options);

// Is the part (its files' size, .gz counted six times) small enough for data.cache_bytes?
Result<bool> FitsInMemory(const DataConfig& data, const PartConfig& part);
// One epoch straight from the files, in windows of data.shuffle_rows that are shuffled each by itself; batches may
// span two windows. Needs statistics (FitStatistics).
Result<std::unique_ptr<BatchStream>> StreamFiles(const ReadOptions& read, Part part, const Statistics& statistics,
                                                 const BatchOptions& options);
// One pass over the training part that keeps only what the transforms need (quantiles from a seeded sample of
// 1,000,000 values a column).
Result<Statistics> FitStatistics(const ReadOptions& options);

// Raw text columns in file order, for predict's output beside the predictions, `check --data` and `init`:
// calls visit once per block of rows; values[c][r] is column c's text.
using VisitText = std::function<Status(std::span<const std::vector<std::string>> values)>;
Status ReadText(const DataConfig& data, const PartConfig& part, const std::vector<std::string>& columns,
                std::int64_t limit, const VisitText& visit);

}  // namespace gatemill::data
