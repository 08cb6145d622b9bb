// Rows of Columns -> Batch: the dedup of the step. And the order of an epoch.
//
// A value's code is looked up in an array of stamps, one entry per code of the table's dictionary: no hashing, no clearing
// between batches. What is read at random is asked for ahead, and no branch asks whether a value is new: both took most of
// the time. Thread safety: an assembler belongs to one thread; EpochOrder is a pure function.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/data/columns.h"
#include "worker/data/dataset.h"

namespace gatemill::data {

// The order of `rows` rows in window `window` of an epoch: a permutation by Fisher and Yates (Knuth's algorithm P),
// drawn from (seed, epoch, window); or as they lie. A dataset in memory is one window, number 0.
std::vector<std::uint32_t> EpochOrder(const BatchOptions& options, std::uint64_t window, std::uint32_t rows);

class BatchAssembler {
 public:
  explicit BatchAssembler(const BatchOptions& options) : options_(options) {}

  // Fills everything but index, global_rows and last_of_epoch. `batch` may be a used one: its memory is taken over.
  void Assemble(const Columns& columns, std::span<const std::uint32_t> rows, Batch* batch);

 private:
  using Mark = std::uint64_t;  // high half: the stamp of the batch that the slot, the low half, belongs to
  // What one feature's values go through.
  struct FeatureInput {
    std::size_t feature;
    std::size_t table_number;
    const Table& table;
    std::span<const std::uint64_t> keys;  // of the table's dictionary
    std::vector<Mark>& marks;
    TableBatch& out;
    FeatureBatch& values;
    bool drops;
  };
  void Reset(const Columns& columns);
  void TakeCodes(const Columns& columns, std::span<const std::uint32_t> rows);
  // The list's codes end to end; sets the feature's offsets.
  void TakeListCodes(const Columns& columns, std::size_t list, std::span<const std::uint32_t> rows, Batch* batch);
  void AddFeature(const Columns& columns, std::size_t feature, std::span<const std::uint32_t> codes, Batch* batch);
  // Sets the slots of the feature's values; new keys and counts go to its table.
  void Dedup(const FeatureInput& input, std::span<const std::uint32_t> codes);
  // Notes the uses that may go to an oov row.
  void DrawOovUses(const FeatureInput& input, const Batch& batch);
  // Of a table that admits: where each of its keys goes while it has no row.
  void SetOovSlots(std::size_t t, const Table& table, TableBatch* out);
  // The position in out->oov of the bucket of `key`, which is added when it is new.
  std::uint32_t OovSlot(std::size_t t, const Table& table, std::uint64_t key, TableBatch* out);
  static void AddNumbers(const Columns& columns, std::span<const std::uint32_t> rows, Batch* batch);
  static void AddLabels(const Columns& columns, std::span<const std::uint32_t> rows, Batch* batch);
  static void AddGroups(const Columns& columns, std::span<const std::uint32_t> rows, Batch* batch);

  BatchOptions options_;
  std::uint32_t stamp_ = 0;
  std::vector<std::vector<Mark>> marks_;      // [tables][codes]
  std::vector<std::vector<Mark>> oov_marks_;  // [tables][oov_buckets] of those that are used
  std::vector<std::uint32_t> codes_;      // [single features, stride_] of the batch
  std::size_t stride_ = 0;
  std::vector<std::uint32_t> list_codes_;  // [values] of one list
  std::vector<std::uint32_t> new_codes_;   // of a feature's values that are the first of their key
  std::vector<std::uint32_t> drawn_;       // positions of a feature's values
};

}  // namespace gatemill::data
