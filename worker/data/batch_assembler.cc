#include "worker/data/batch_assembler.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "common/random.h"

namespace gatemill::data {
namespace {

constexpr std::size_t kCacheLineBytes = 64;
constexpr std::uint64_t kShuffleDraws = 0x73687566666c65ULL;  // "shuffle"
constexpr std::uint64_t kOovDraws = 0x6f6f76ULL;              // "oov"

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
  PrefetchRows(columns, rows);
  batch->epoch = options_.epoch;
  batch->rows = rows.size();
  batch->sparse.resize(columns.schema_.sparse.size());
  batch->tables.resize(columns.schema_.tables.size());
  for (TableBatch& table : batch->tables) {
    table.keys.clear();
    table.counts.clear();
    table.oov.clear();
    table.oov_uses.clear();
  }
  batch->samples.resize(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) batch->samples[i] = columns.sample(rows[i]);
  for (std::size_t s = 0; s < columns.single_features_.size(); ++s) AddSingle(columns, s, rows, batch);
  for (std::size_t l = 0; l < columns.list_features_.size(); ++l) AddList(columns, l, rows, batch);
  AddNumbers(columns, rows, batch);
  AddLabels(columns, rows, batch);
}

// Shuffled rows are scattered in memory: ask for all of them before the first is used.
void BatchAssembler::PrefetchRows(const Columns& columns, std::span<const std::uint32_t> rows) {
  const auto fetch = [](const auto& matrix, std::size_t row, std::size_t width) {
    const auto* begin = reinterpret_cast<const char*>(matrix.data() + row * width);
    for (std::size_t byte = 0; byte < width * sizeof(matrix[0]); byte += kCacheLineBytes) __builtin_prefetch(begin + byte);
  };
  for (const std::uint32_t row : rows) {
    fetch(columns.codes_, row, columns.single_features_.size());
    fetch(columns.numbers_, row, columns.schema_.dense.size());
    fetch(columns.labels_, row, columns.schema_.tasks.size());
  }
}

void BatchAssembler::Reset(const Columns& columns) {
  marks_.resize(columns.dictionaries_.size());
  if (++stamp_ == 0) {  // after 2^32 batches: no old stamp may look new
    for (auto& marks : marks_) std::fill(marks.begin(), marks.end(), Mark{});
    stamp_ = 1;
  }
  // Another Columns may number its keys otherwise; marks of earlier batches are out of date all the same.
  for (std::size_t t = 0; t < marks_.size(); ++t) {
    if (marks_[t].size() < columns.dictionaries_[t].keys().size()) marks_[t].resize(columns.dictionaries_[t].keys().size());
  }
}

BatchAssembler::FeatureInput BatchAssembler::InputOf(const Columns& columns, std::size_t feature, Batch* batch) {
  const std::uint32_t t = columns.schema_.sparse[feature].table;
  const Table& table = columns.schema_.tables[t];
  return {feature,
          table,
          columns.dictionaries_[t].keys(),
          marks_[t],
          batch->tables[t],
          batch->sparse[feature].slots,
          options_.drop_to_oov && table.oov_buckets > 0 && table.oov_ratio > 0.0};
}

void BatchAssembler::AddSingle(const Columns& columns, std::size_t single, std::span<const std::uint32_t> rows,
                               Batch* batch) {
  FeatureInput input = InputOf(columns, columns.single_features_[single], batch);
  batch->sparse[input.feature].offsets.clear();
  input.slots.resize(rows.size());
  const std::size_t stride = columns.single_features_.size();
  const std::uint32_t* codes = columns.codes_.data() + single;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::uint32_t code = codes[rows[i] * stride];
    input.slots[i] = SlotOf(&input, code, batch->samples[i], {i, 0});
  }
}

void BatchAssembler::AddList(const Columns& columns, std::size_t list, std::span<const std::uint32_t> rows,
                             Batch* batch) {
  FeatureInput input = InputOf(columns, columns.list_features_[list], batch);
  std::vector<std::uint32_t>& offsets = batch->sparse[input.feature].offsets;
  input.slots.clear();
  offsets.assign(1, 0);
  const ListColumn& column = columns.lists_[list];
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::uint64_t begin = column.offsets[rows[i]];
    const std::uint64_t end = column.offsets[rows[i] + 1];
    for (std::uint64_t v = begin; v < end; ++v) {
      const Place place{input.slots.size(), v - begin};
      input.slots.push_back(SlotOf(&input, column.codes[v], batch->samples[i], place));
    }
    offsets.push_back(static_cast<std::uint32_t>(input.slots.size()));
  }
}

inline std::uint32_t BatchAssembler::SlotOf(FeatureInput* input, std::uint32_t code, std::uint64_t sample, Place place) {
  if (input->drops && Drops(*input, sample, place.of_sample)) {
    input->out.oov_uses.push_back({.feature = static_cast<std::uint32_t>(input->feature),
                                   .position = static_cast<std::uint32_t>(place.of_feature),
                                   .oov = OovSlot(*input, input->keys[code])});
  }
  Mark& mark = input->marks[code];
  if (mark.stamp != stamp_) {
    mark = {stamp_, static_cast<std::uint32_t>(input->out.keys.size())};
    input->out.keys.push_back(input->keys[code]);
    input->out.counts.push_back(0);
  }
  ++input->out.counts[mark.slot];
  return mark.slot;
}

bool BatchAssembler::Drops(const FeatureInput& input, std::uint64_t sample, std::uint64_t position) const {
  const std::uint64_t draws = RandomBits(options_.seed ^ kOovDraws, options_.epoch);
  const std::uint64_t bits = RandomBits(draws, sample, input.feature | position << 32U);
  return ToUniformDouble(bits) < input.table.oov_ratio;
}

std::uint32_t BatchAssembler::OovSlot(const FeatureInput& input, std::uint64_t key) {
  std::vector<std::uint64_t>& used = input.out.oov;
  const std::uint64_t bucket = OovBucketOf(key, input.table.oov_buckets);
  // A linear search: few uses are drawn, into few buckets.
  const auto found = std::find(used.begin(), used.end(), bucket);
  const auto slot = static_cast<std::uint32_t>(found - used.begin());
  if (found == used.end()) used.push_back(bucket);
  return slot;
}

void BatchAssembler::AddNumbers(const Columns& columns, std::span<const std::uint32_t> rows, Batch* batch) const {
  const std::vector<DenseFeature>& features = columns.schema_.dense;
  const std::size_t width = features.size();
  const auto dense_dim = static_cast<std::size_t>(columns.schema_.dense_dim);
  batch->dense.resize(rows.size() * dense_dim);
  float* out = batch->dense.data();
  for (const std::uint32_t row : rows) {
    const float* numbers = columns.numbers_.data() + std::size_t{row} * width;
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

void BatchAssembler::AddLabels(const Columns& columns, std::span<const std::uint32_t> rows, Batch* batch) const {
  const std::size_t tasks = columns.schema_.tasks.size();
  batch->labels.resize(tasks * rows.size());
  for (std::size_t t = 0; t < tasks; ++t) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      batch->labels[t * rows.size() + i] = columns.labels_[std::size_t{rows[i]} * tasks + t];
    }
  }
  batch->weights.clear();
  if (columns.weights_.empty()) return;
  for (const std::uint32_t row : rows) batch->weights.push_back(columns.weights_[row]);
}

}  // namespace gatemill::data
