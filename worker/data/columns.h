// Samples in memory: what a Dataset is, and how text rows become one.
//
//   ColumnBuilder builder(read_options);
//   for (block of a PartReader) GM_RETURN_IF_ERROR(builder.Append(reader, block, block.rows, block.first_sample));
//   std::shared_ptr<Columns> columns = builder.Finish(statistics);
//
// One-valued sparse features and numbers lie row by row, because shuffled batches take whole rows; lists lie feature by
// feature. A sparse value is a code: its key's position in its table's dictionary.
//
// Errors: values that do not convert are kInvalidInput with file, line, column and value.
// Thread safety: a builder belongs to one thread; Columns is immutable once shared.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "worker/data/dataset.h"
#include "worker/data/part_reader.h"
#include "worker/data/schema.h"
#include "worker/data/text.h"
#include "worker/data/transform.h"

namespace gatemill::data {

inline constexpr std::uint64_t kMaxRows = 0xfffffff0ULL;  // of a Dataset: rows are numbered with 32 bits

// The distinct keys of a table, numbered in order of first appearance.
class KeyDictionary {
 public:
  std::uint32_t CodeOf(std::uint64_t key);  // adds the key when it is new
  [[nodiscard]] std::span<const std::uint64_t> keys() const { return keys_; }
  [[nodiscard]] std::uint64_t memory_bytes() const;

 private:
  void Grow();
  std::vector<std::uint64_t> keys_;    // [code]
  std::vector<std::uint32_t> places_;  // open addressing, linear probing: code + 1, or 0; at most half full
  int shift_ = 64;                     // 64 - log2(places_.size())
};

struct ListColumn {
  std::vector<std::uint64_t> offsets{0};  // [rows + 1] into codes
  std::vector<std::uint32_t> codes;
};

class Columns final : public Dataset {
 public:
  explicit Columns(const Schema& schema);

  [[nodiscard]] std::uint64_t rows() const override { return rows_; }
  [[nodiscard]] std::uint64_t memory_bytes() const override;
  [[nodiscard]] const Schema& schema() const { return schema_; }

  // Appends rows of another Columns with the same schema; its codes are translated.
  void AppendRows(const Columns& other, std::span<const std::uint32_t> rows);

  // The number of a row's sample in its part.
  [[nodiscard]] std::uint64_t sample(std::uint32_t row) const { return samples_.empty() ? row : samples_[row]; }

 private:
  friend class ColumnBuilder;
  friend class BatchAssembler;

  Schema schema_;
  std::vector<std::size_t> single_features_;  // positions in schema_.sparse of the features with one value a sample
  std::vector<std::size_t> list_features_;    // ... and of those with a separator
  std::uint64_t rows_ = 0;
  std::vector<std::uint32_t> codes_;          // [rows, single_features]
  std::vector<ListColumn> lists_;             // [list_features]
  std::vector<float> numbers_;                // [rows, schema.dense]: transformed; one-hot: the bucket, -1 when missing
  std::vector<float> labels_;                 // [rows, tasks]
  std::vector<float> weights_;                // [rows], or empty = all 1
  std::vector<float> task_weights_;           // [rows, tasks], or empty = all 1
  std::vector<std::uint64_t> groups_;         // [rows, schema.groups] keys, or empty: not kept
  std::vector<std::uint64_t> samples_;        // [rows], or empty: the sample's number is its row
  std::vector<KeyDictionary> dictionaries_;   // [tables]
};

class ColumnBuilder {
 public:
  // What not every dataset needs.
  struct Keep {
    bool sample_numbers = false;  // a window of a part; else rows are the part's samples from 0
    bool groups = false;          // the keys of schema.groups
  };
  // options.schema outlives it.
  ColumnBuilder(const ReadOptions& options, Keep keep);

  // The text columns that Append needs, each once: what to open a PartReader with.
  [[nodiscard]] const std::vector<std::string>& columns() const { return columns_; }
  [[nodiscard]] std::uint64_t rows() const { return data_->rows_; }

  // `rows`: positions in block.text, ascending; the first is sample `first_sample`, the others follow.
  Status Append(const PartReader& reader, const RowBlock& block, std::span<const std::uint32_t> rows,
                std::uint64_t first_sample);
  // The statistics of what was appended.
  [[nodiscard]] Statistics Fit(std::uint64_t seed) const;
  // Transforms the numbers and hands the rows out; the builder is done.
  std::shared_ptr<Columns> Finish(const Statistics& statistics);

 private:
  struct NumberInput {
    NumberColumn column;
    std::size_t text = 0;         // position in columns_
    std::vector<double> values;   // [rows], NaN = missing
  };
  struct Rows {  // of one Append
    const PartReader& reader;
    const RowBlock& block;
    std::span<const std::uint32_t> rows;
  };
  std::size_t TextColumn(const std::string& name);
  void AppendSingle(std::size_t single, const Rows& input);
  void AppendList(std::size_t list, const Rows& input);
  Status AppendNumbers(NumberInput* number, const Rows& input);
  Status AppendLabels(std::size_t task, const Rows& input);
  Status AppendWeights(const Rows& input);
  Status AppendTaskWeights(const Rows& input);
  void AppendGroups(const Rows& input);
  [[nodiscard]] std::uint32_t CodeOfText(std::size_t sparse_feature, std::string_view text);
  void FinishBuckets(const NumberInput& number, std::span<const double> boundaries);

  const Schema* schema_;
  bool with_labels_;
  bool keep_sample_numbers_;
  MissingValues missing_;
  std::vector<std::string> columns_;
  std::vector<std::size_t> single_text_;   // [single_features] position in columns_
  std::vector<std::size_t> list_text_;     // [list_features]
  std::vector<std::size_t> label_text_;    // [tasks]
  std::optional<std::size_t> weight_text_;
  struct TaskWeightText {  // positions in columns_
    std::size_t task = 0;
    std::optional<std::size_t> weight;
    std::optional<std::size_t> indicator;
  };
  std::vector<TaskWeightText> task_weight_text_;  // of tasks that weigh samples
  std::vector<std::size_t> group_text_;    // [schema.groups], or empty: not kept
  std::vector<NumberInput> numbers_;       // NumberColumns(schema)
  std::shared_ptr<Columns> data_;
};

// What NumberColumns' texts become, with the checks of a dense value: shared with FitStatistics. NaN = missing.
Result<double> NumberOfText(const NumberColumn& column, const MissingValues& missing, std::string_view text);

}  // namespace gatemill::data
