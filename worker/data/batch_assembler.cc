#include "worker/data/batch_assembler.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "common/random.h"

namespace gatemill::data {
namespace {

constexpr std::size_t kCacheLineBytes = 64;
constexpr std::size_t kLineCodes = kCacheLineBytes / sizeof(std::uint32_t);
constexpr std::size_t kRowsAhead = 16;   // asked for before they are read
constexpr std::size_t kMarksAhead = 32;  // the same, of marks and keys
constexpr std::uint64_t kShuffleDraws = 0x73687566666c65ULL;  // "shuffle"
constexpr std::uint64_t kOovDraws = 0x6f6f76ULL;              // "oov"

// Asks for the row that is read kRowsAhead rows later.
template <typename T>
[[gnu::always_inline]] inline void PrefetchRow(const std::vector<T>& matrix, std::span<const std::uint32_t> rows,
                                               std::size_t i, std::size_t width) {
  if (i + kRowsAhead >= rows.size()) return;
  const auto* begin = reinterpret_cast<const char*>(matrix.data() + rows[i + kRowsAhead] * width);
  for (std::size_t byte = 0; byte < width * sizeof(T) + kCacheLineBytes - 1; byte += kCacheLineBytes) {
    __builtin_prefetch(begin + byte);
  }
}

}  // namespace

std::vector<std::uint32_t> EpochOrder(const BatchOptions& options, std::uint64_t window, std::uint32_t rows) {
  std::vector<std::uint32_t> order(rows);
  std::iota(order.begin(), order.end(), 0U);
  if (!options.shuffle) return order;
  RandomStream random(RandomBits(options.seed, options.epoch, window), kShuffleDraws);
  for (std::uint32_t i = rows; i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
  return order;
}

void BatchAssembler::Assemble(const Columns& columns, std::span<const std::uint32_t> rows, Batch* batch) {
  Reset(columns);
  batch->epoch = options_.epoch;
  batch->rows = rows.size();
  batch->sparse.resize(columns.schema_.sparse.size());
  batch->tables.resize(columns.schema_.tables.size());
  for (TableBatch& table : batch->tables) {
    table.keys.clear();
    table.counts.clear();
    table.oov.clear();
    table.oov_uses.clear();
    table.oov_slots.clear();
  }
  batch->samples.resize(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) batch->samples[i] = columns.sample(rows[i]);
  TakeCodes(columns, rows);
  for (std::size_t s = 0; s < columns.single_features_.size(); ++s) {
    const std::size_t feature = columns.single_features_[s];
    batch->sparse[feature].offsets.clear();
    AddFeature(columns, feature, std::span<const std::uint32_t>(codes_).subspan(s * stride_, rows.size()), batch);
  }
  for (std::size_t l = 0; l < columns.list_features_.size(); ++l) {
    TakeListCodes(columns, l, rows, batch);
    AddFeature(columns, columns.list_features_[l], list_codes_, batch);
  }
  for (std::size_t t = 0; options_.drop_to_oov && t < batch->tables.size(); ++t) {
    const Table& table = columns.schema_.tables[t];
    if (table.admits && table.oov_buckets > 0) SetOovSlots(t, table, &batch->tables[t]);
  }
  AddNumbers(columns, rows, batch);
  AddLabels(columns, rows, batch);
  AddGroups(columns, rows, batch);
}

void BatchAssembler::Reset(const Columns& columns) {
  marks_.resize(columns.dictionaries_.size());
  oov_marks_.resize(columns.dictionaries_.size());
  if (++stamp_ == 0) {  // after 2^32 batches: no old stamp may look new
    for (auto& marks : marks_) std::fill(marks.begin(), marks.end(), Mark{0});
    for (auto& marks : oov_marks_) std::fill(marks.begin(), marks.end(), Mark{0});
    stamp_ = 1;
  }
  // Another Columns may number its keys otherwise; marks of earlier batches are out of date all the same.
  for (std::size_t t = 0; t < marks_.size(); ++t) {
    if (marks_[t].size() < columns.dictionaries_[t].keys().size()) marks_[t].resize(columns.dictionaries_[t].keys().size());
  }
}

// Feature by feature what lies row by row. Shuffled rows are scattered in memory: each is read once.
void BatchAssembler::TakeCodes(const Columns& columns, std::span<const std::uint32_t> rows) {
  const std::size_t width = columns.single_features_.size();
  // An odd number of cache lines: the features' places of one row are in different sets of the cache.
  stride_ = ((rows.size() + kLineCodes - 1) / kLineCodes | 1) * kLineCodes;
  codes_.resize(width * stride_);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    PrefetchRow(columns.codes_, rows, i, width);
    const std::uint32_t* row = columns.codes_.data() + std::size_t{rows[i]} * width;
    for (std::size_t s = 0; s < width; ++s) codes_[s * stride_ + i] = row[s];
  }
}

void BatchAssembler::TakeListCodes(const Columns& columns, std::size_t list, std::span<const std::uint32_t> rows,
                                   Batch* batch) {
  const ListColumn& column = columns.lists_[list];
  std::vector<std::uint32_t>& offsets = batch->sparse[columns.list_features_[list]].offsets;
  offsets.resize(rows.size() + 1);
  offsets[0] = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i + kRowsAhead < rows.size()) __builtin_prefetch(&column.offsets[rows[i + kRowsAhead]]);
    const std::uint64_t begin = column.offsets[rows[i]];
    const std::uint64_t end = column.offsets[rows[i] + 1];
    __builtin_prefetch(column.codes.data() + begin);
    offsets[i + 1] = offsets[i] + static_cast<std::uint32_t>(end - begin);
  }
  list_codes_.resize(offsets.back());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(column.codes.data() + column.offsets[rows[i]], offsets[i + 1] - offsets[i], list_codes_.data() + offsets[i]);
  }
}

void BatchAssembler::AddFeature(const Columns& columns, std::size_t feature, std::span<const std::uint32_t> codes,
                                Batch* batch) {
  const std::uint32_t t = columns.schema_.sparse[feature].table;
  const Table& table = columns.schema_.tables[t];
  const FeatureInput input{feature,
                           t,
                           table,
                           columns.dictionaries_[t].keys(),
                           marks_[t],
                           batch->tables[t],
                           batch->sparse[feature],
                           options_.drop_to_oov && table.oov_buckets > 0 && table.oov_ratio > 0.0 && !table.admits};
  Dedup(input, codes);
  if (input.drops) DrawOovUses(input, *batch);
}

// Whether a value is new is as good as random: no branch asks for it. What only a new value needs is written for each,
// where the next one overwrites it.
void BatchAssembler::Dedup(const FeatureInput& input, std::span<const std::uint32_t> codes) {
  const std::size_t known = input.out.keys.size();
  new_codes_.resize(codes.size());
  input.values.slots.resize(codes.size());
  input.out.counts.resize(known + codes.size());
  Mark* marks = input.marks.data();
  std::uint32_t* counts = input.out.counts.data();
  std::uint32_t* new_codes = new_codes_.data();
  std::uint32_t* slots = input.values.slots.data();
  const Mark stamp = Mark{stamp_} << 32U;
  std::size_t used = known;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    if (i + kMarksAhead < codes.size()) __builtin_prefetch(marks + codes[i + kMarksAhead], 1);
    const std::uint32_t code = codes[i];
    const std::uint64_t fresh = stamp | used;
    const std::uint64_t is_new = marks[code] < stamp ? 1 : 0;  // stamps only grow
    const std::uint64_t mark = marks[code] ^ ((marks[code] ^ fresh) & (0 - is_new));
    const auto slot = static_cast<std::uint32_t>(mark);
    marks[code] = mark;
    new_codes[used - known] = code;
    ++counts[slot];
    slots[i] = slot;
    used += is_new;
  }
  input.out.counts.resize(used);
  input.out.keys.resize(used);
  for (std::size_t i = 0; i < used - known; ++i) {
    if (i + kMarksAhead < used - known) __builtin_prefetch(&input.keys[new_codes[i + kMarksAhead]]);
    input.out.keys[known + i] = input.keys[new_codes[i]];
  }
}

void BatchAssembler::DrawOovUses(const FeatureInput& input, const Batch& batch) {
  const std::uint64_t draws = RandomBits(options_.seed ^ kOovDraws, options_.epoch);
  const std::vector<std::uint32_t>& offsets = input.values.offsets;
  drawn_.resize(input.values.slots.size());
  std::size_t count = 0;
  for (std::size_t i = 0; i < batch.rows; ++i) {
    const std::size_t begin = offsets.empty() ? i : offsets[i];
    const std::size_t end = offsets.empty() ? i + 1 : offsets[i + 1];
    for (std::size_t v = begin; v < end; ++v) {
      const std::uint64_t bits = RandomBits(draws, batch.samples[i], input.feature | std::uint64_t{v - begin} << 32U);
      drawn_[count] = static_cast<std::uint32_t>(v);  // to be overwritten if it is not
      count += ToUniformDouble(bits) < input.table.oov_ratio ? 1 : 0;
    }
  }
  for (const std::uint32_t position : std::span<const std::uint32_t>(drawn_).first(count)) {
    const std::uint64_t key = input.out.keys[input.values.slots[position]];
    input.out.oov_uses.push_back(
        {.feature = static_cast<std::uint32_t>(input.feature),
         .position = position,
         .oov = OovSlot(input.table_number, input.table, key, &input.out)});
  }
}

void BatchAssembler::SetOovSlots(std::size_t t, const Table& table, TableBatch* out) {
  out->oov_slots.resize(out->keys.size());
  for (std::size_t i = 0; i < out->keys.size(); ++i) out->oov_slots[i] = OovSlot(t, table, out->keys[i], out);
}

std::uint32_t BatchAssembler::OovSlot(std::size_t t, const Table& table, std::uint64_t key, TableBatch* out) {
  std::vector<Mark>& marks = oov_marks_[t];
  marks.resize(table.oov_buckets, 0);
  const std::uint64_t bucket = OovBucketOf(key, table.oov_buckets);
  const Mark stamp = Mark{stamp_} << 32U;
  if (marks[bucket] < stamp) {
    marks[bucket] = stamp | out->oov.size();
    out->oov.push_back(bucket);
  }
  return static_cast<std::uint32_t>(marks[bucket]);
}

void BatchAssembler::AddNumbers(const Columns& columns, std::span<const std::uint32_t> rows, Batch* batch) {
  const std::vector<DenseFeature>& features = columns.schema_.dense;
  const std::size_t width = features.size();
  const auto dense_dim = static_cast<std::size_t>(columns.schema_.dense_dim);
  batch->dense.resize(rows.size() * dense_dim);
  float* out = batch->dense.data();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    PrefetchRow(columns.numbers_, rows, i, width);
    const float* numbers = columns.numbers_.data() + std::size_t{rows[i]} * width;
    if (dense_dim == width) {
      out = std::copy_n(numbers, width, out);
      continue;
    }
    for (std::size_t f = 0; f < width; ++f) {
      if (features[f].bucketize.empty()) {
        *out++ = numbers[f];
        continue;
      }
      std::fill_n(out, features[f].width, 0.0F);
      if (numbers[f] >= 0.0F) out[static_cast<std::size_t>(numbers[f])] = 1.0F;
      out += features[f].width;
    }
  }
}

void BatchAssembler::AddLabels(const Columns& columns, std::span<const std::uint32_t> rows, Batch* batch) {
  const std::size_t tasks = columns.schema_.tasks.size();
  batch->labels.resize(tasks * rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    PrefetchRow(columns.labels_, rows, i, tasks);
    const float* labels = columns.labels_.data() + std::size_t{rows[i]} * tasks;
    for (std::size_t t = 0; t < tasks; ++t) batch->labels[t * rows.size() + i] = labels[t];
  }
  batch->weights.clear();
  for (std::size_t i = 0; i < rows.size() && !columns.weights_.empty(); ++i) batch->weights.push_back(columns.weights_[rows[i]]);
  batch->task_weights.clear();
  for (std::size_t t = 0; t < tasks && !columns.task_weights_.empty(); ++t) {
    for (const std::uint32_t row : rows) batch->task_weights.push_back(columns.task_weights_[std::size_t{row} * tasks + t]);
  }
}

void BatchAssembler::AddGroups(const Columns& columns, std::span<const std::uint32_t> rows, Batch* batch) {
  batch->groups.clear();
  if (columns.groups_.empty()) return;
  const std::size_t width = columns.schema_.groups.size();
  for (std::size_t g = 0; g < width; ++g) {
    for (const std::uint32_t row : rows) batch->groups.push_back(columns.groups_[row * width + g]);
  }
}

}  // namespace gatemill::data
