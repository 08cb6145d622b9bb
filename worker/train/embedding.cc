#include "worker/train/embedding.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <numeric>

namespace gatemill::train {
namespace {

constexpr std::int64_t kRowsPerThread = 512;  // below this a thread costs more than it saves
constexpr std::int64_t kWorkPerThread = 8192 * 32;  // as much as 8,192 uses of 16 floats
constexpr std::size_t kBytesAtOnce = 256 << 10;  // of x: it stays in the cache while feature after feature is written

FeatureValues ValuesOf(const data::Schema& schema, const data::Batch& batch, std::size_t f) {
  const data::SparseFeature& feature = schema.sparse[f];
  const data::FeatureBatch& values = batch.sparse[f];
  return {.slots = values.slots.data(),
          .offsets = values.offsets.empty() ? nullptr : values.offsets.data(),
          .pooling = feature.pooling,
          .dim = feature.dim,
          .x_dim = static_cast<std::size_t>(schema.x_dim())};
}

// What a use costs, in floats: a part does not depend on the dimension.
std::int64_t WorkOfUse(const data::Table& table) { return table.dim + 16; }
// Of the table's slots, each counted as one more: its memory is written once before.
std::int64_t UsesOf(const data::Schema& schema, const data::Batch& batch, std::size_t table) {
  std::size_t uses = batch.tables[table].slots();
  for (std::size_t f = 0; f < schema.sparse.size(); ++f) {
    if (schema.sparse[f].table == table) uses += batch.sparse[f].slots.size();
  }
  return static_cast<std::int64_t>(uses);
}

// The slots before this one make `uses`. (Those of oov rows are not known: such a row counts as one.)
std::size_t SlotAtUse(const data::TableBatch& table, std::int64_t uses) {
  constexpr std::size_t kBlock = 256;
  const std::vector<std::uint32_t>& counts = table.counts;
  std::size_t slot = 0;
  for (; slot + kBlock <= counts.size(); slot += kBlock) {
    const auto first = counts.begin() + static_cast<std::ptrdiff_t>(slot);
    const std::int64_t block = std::accumulate(first, first + kBlock, 0U) + kBlock;
    if (block > uses) break;
    uses -= block;
  }
  for (; slot < counts.size() && counts[slot] + 1 <= uses; ++slot) uses -= counts[slot] + 1;
  if (slot == counts.size()) slot += static_cast<std::size_t>(uses);
  return std::min(slot, table.slots());
}

}  // namespace

void TableRows::Resize(const data::Schema& schema, const data::Batch& batch) {
  tables.resize(schema.tables.size());
  for (std::size_t t = 0; t < tables.size(); ++t) {
    tables[t].resize(batch.tables[t].slots() * static_cast<std::size_t>(schema.tables[t].dim));
  }
}

void EmbeddingLayer::Gather(const data::Batch& batch, const TableRows& rows, std::span<float> x) const {
  const std::size_t x_dim = static_cast<std::size_t>(schema_->x_dim());
  const std::size_t dense_dim = static_cast<std::size_t>(schema_->dense_dim);
  const std::size_t at_once = std::max<std::size_t>(1, kBytesAtOnce / (sizeof(float) * std::max<std::size_t>(x_dim, 1)));
  pool_->For(static_cast<std::int64_t>(batch.rows), kRowsPerThread, [&](std::int64_t from, std::int64_t to) {
    for (auto begin = static_cast<std::size_t>(from); begin < static_cast<std::size_t>(to); begin += at_once) {
      const std::size_t end = std::min(begin + at_once, static_cast<std::size_t>(to));
      for (std::size_t f = 0; f < schema_->sparse.size(); ++f) {
        const data::SparseFeature& feature = schema_->sparse[f];
        kernels_.gather(ValuesOf(*schema_, batch, f), rows.tables[feature.table].data(), begin, end,
                        x.data() + feature.x_offset);
      }
      if (dense_dim == 0) continue;
      for (std::size_t r = begin; r < end; ++r) {
        std::memcpy(x.data() + r * x_dim + static_cast<std::size_t>(schema_->sparse_dim),
                    batch.dense.data() + r * dense_dim, sizeof(float) * dense_dim);
      }
    }
  });
}

// A thread takes slots, the same share of the work as the others, and goes through the uses of their tables: each row's
// sum has one order.
void EmbeddingLayer::Scatter(const data::Batch& batch, const TableRows& rows, std::span<const float> grad_x,
                             TableRows* grads) const {
  grads->Resize(*schema_, batch);
  std::vector<std::int64_t> first_work(schema_->tables.size() + 1, 0);  // [tables + 1] sums of the tables before
  for (std::size_t t = 0; t < schema_->tables.size(); ++t) {
    first_work[t + 1] = first_work[t] + UsesOf(*schema_, batch, t) * WorkOfUse(schema_->tables[t]);
  }
  pool_->For(first_work.back(), kWorkPerThread, [&](std::int64_t begin, std::int64_t end) {
    for (std::size_t t = 0; t < schema_->tables.size(); ++t) {
      if (begin >= first_work[t + 1] || end <= first_work[t]) continue;
      const auto slot_at = [&](std::int64_t work) {
        if (work >= first_work[t + 1]) return batch.tables[t].slots();
        return work <= first_work[t]
                   ? 0
                   : SlotAtUse(batch.tables[t], (work - first_work[t]) / WorkOfUse(schema_->tables[t]));
      };
      ScatterSlots(batch, rows, grad_x, t, {slot_at(begin), slot_at(end)}, grads);
    }
  });
}

void EmbeddingLayer::ScatterSlots(const data::Batch& batch, const TableRows& rows, std::span<const float> grad_x,
                                  std::size_t table, std::pair<std::size_t, std::size_t> slots,
                                  TableRows* grads) const {
  const auto [begin, end] = slots;
  if (begin >= end) return;
  GradientRows to{.grads = grads->tables[table].data(),
                  .begin = static_cast<std::uint32_t>(begin),
                  .end = static_cast<std::uint32_t>(end),
                  .written = static_cast<std::uint32_t>(begin)};
  if (batch.rows == 0) return ZeroUpTo(to.end, schema_->tables[table].dim, &to);
  const bool all = begin == 0 && end == batch.tables[table].slots();
  for (std::size_t f = 0; f < schema_->sparse.size(); ++f) {
    const data::SparseFeature& feature = schema_->sparse[f];
    if (feature.table != table) continue;
    kernels_.scatter(ValuesOf(*schema_, batch, f), rows.tables[table].data(), batch.rows,
                     grad_x.data() + feature.x_offset, all, &to);
  }
  ZeroUpTo(to.end, schema_->tables[table].dim, &to);  // slots without a use
}

}  // namespace gatemill::train
