// Rows of Columns -> Batch: the dedup of the step. And the order of an epoch.
//
// A value's code is looked up in an array of stamps, one entry per code of the table's dictionary: no hashing, no clearing
// between batches. Thread safety: an assembler belongs to one thread; EpochOrder is a pure function.
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
  struct Mark {
    std::uint32_t stamp = 0;  // the batch that the slot belongs to
    std::uint32_t slot = 0;
  };
  struct Place {  // of a value
    std::size_t of_feature;   // among the feature's values in the batch
    std::uint64_t of_sample;  // among the sample's values of the feature
  };
  // What one feature's values go through.
  struct FeatureInput {
    std::size_t feature;
    const Table& table;
    std::span<const std::uint64_t> keys;  // of the table's dictionary
    std::vector<Mark>& marks;
    TableBatch& out;
    std::vector<std::uint32_t>& slots;
    bool drops;
  };
  void Reset(const Columns& columns);
  static void PrefetchRows(const Columns& columns, std::span<const std::uint32_t> rows);
  [[nodiscard]] FeatureInput InputOf(const Columns& columns, std::size_t feature, Batch* batch);
  void AddSingle(const Columns& columns, std::size_t single, std::span<const std::uint32_t> rows, Batch* batch);
  void AddList(const Columns& columns, std::size_t list, std::span<const std::uint32_t> rows, Batch* batch);
  // The value's slot in its table; notes a use that may go to an oov row.
  std::uint32_t SlotOf(FeatureInput* input, std::uint32_t code, std::uint64_t sample, Place place);
  [[nodiscard]] bool Drops(const FeatureInput& input, std::uint64_t sample, std::uint64_t position) const;
  std::uint32_t OovSlot(const FeatureInput& input, std::uint64_t key);
  void AddNumbers(const Columns& columns, std::span<const std::uint32_t> rows, Batch* batch) const;
  void AddLabels(const Columns& columns, std::span<const std::uint32_t> rows, Batch* batch) const;

  BatchOptions options_;
  std::uint32_t stamp_ = 0;
  std::vector<std::vector<Mark>> marks_;  // [tables][codes]
};

}  // namespace gatemill::data
