#include "worker/train/embedding.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace gatemill::train {
namespace {

constexpr std::int64_t kRowsPerThread = 512;    // below this a thread costs more than it saves
constexpr std::int64_t kValuesPerThread = 8192;

// dst[0..dim) += src[0..dim).
inline void AddRow(float* dst, const float* src, int dim) {
  for (int i = 0; i < dim; ++i) dst[i] += src[i];
}
inline void AddScaledRow(float* dst, const float* src, int dim, float scale) {
  for (int i = 0; i < dim; ++i) dst[i] += src[i] * scale;
}

// The pooled row of values [begin, end) of a list feature.
void PoolList(const data::SparseFeature& feature, std::span<const std::uint32_t> slots, const float* rows, float* out) {
  const int dim = feature.dim;
  if (slots.empty()) {
    std::fill_n(out, dim, 0.0F);
    return;
  }
  std::memcpy(out, rows + static_cast<std::size_t>(slots[0]) * dim, sizeof(float) * dim);
  for (const std::uint32_t slot : slots.subspan(1)) {
    const float* row = rows + static_cast<std::size_t>(slot) * dim;
    if (feature.pooling == Pooling::kMax) {
      for (int i = 0; i < dim; ++i) out[i] = std::max(out[i], row[i]);
    } else {
      AddRow(out, row, dim);
    }
  }
  if (feature.pooling == Pooling::kMean && slots.size() > 1) {
    const float scale = 1.0F / static_cast<float>(slots.size());
    for (int i = 0; i < dim; ++i) out[i] *= scale;
  }
}

// grads[slot] gets its part of the gradient of one pooled row.
void ScatterList(const data::SparseFeature& feature, std::span<const std::uint32_t> slots, const float* rows,
                 const float* grad, float* grads) {
  const int dim = feature.dim;
  if (slots.empty()) return;
  if (feature.pooling == Pooling::kMax) {
    for (int i = 0; i < dim; ++i) {
      std::uint32_t best = slots[0];
      for (const std::uint32_t slot : slots.subspan(1)) {
        if (rows[static_cast<std::size_t>(slot) * dim + i] > rows[static_cast<std::size_t>(best) * dim + i]) best = slot;
      }
      grads[static_cast<std::size_t>(best) * dim + i] += grad[i];
    }
    return;
  }
  const float scale = feature.pooling == Pooling::kMean ? 1.0F / static_cast<float>(slots.size()) : 1.0F;
  for (const std::uint32_t slot : slots) AddScaledRow(grads + static_cast<std::size_t>(slot) * dim, grad, dim, scale);
}

std::span<const std::uint32_t> ListSlots(const data::FeatureBatch& values, std::size_t row) {
  return std::span(values.slots).subspan(values.offsets[row], values.offsets[row + 1] - values.offsets[row]);
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
  pool_->For(static_cast<std::int64_t>(batch.rows), kRowsPerThread, [&](std::int64_t begin, std::int64_t end) {
    for (std::size_t f = 0; f < schema_->sparse.size(); ++f) {
      const data::SparseFeature& feature = schema_->sparse[f];
      const data::FeatureBatch& values = batch.sparse[f];
      const float* table = rows.tables[feature.table].data();
      float* out = x.data() + static_cast<std::size_t>(begin) * x_dim + static_cast<std::size_t>(feature.x_offset);
      for (auto r = static_cast<std::size_t>(begin); r < static_cast<std::size_t>(end); ++r, out += x_dim) {
        if (values.offsets.empty()) {
          std::memcpy(out, table + static_cast<std::size_t>(values.slots[r]) * feature.dim, sizeof(float) * feature.dim);
        } else {
          PoolList(feature, ListSlots(values, r), table, out);
        }
      }
    }
    if (dense_dim == 0) return;
    for (auto r = static_cast<std::size_t>(begin); r < static_cast<std::size_t>(end); ++r) {
      std::memcpy(x.data() + r * x_dim + static_cast<std::size_t>(schema_->sparse_dim),
                  batch.dense.data() + r * dense_dim, sizeof(float) * dense_dim);
    }
  });
}

void EmbeddingLayer::Scatter(const data::Batch& batch, const TableRows& rows, std::span<const float> grad_x,
                             TableRows* grads) const {
  const std::size_t x_dim = static_cast<std::size_t>(schema_->x_dim());
  grads->Resize(*schema_, batch);
  const auto features_of = [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) std::fill(grads->tables[t].begin(), grads->tables[t].end(), 0.0F);
    for (std::size_t f = 0; f < schema_->sparse.size(); ++f) {
      const data::SparseFeature& feature = schema_->sparse[f];
      if (feature.table < begin || feature.table >= end) continue;
      const data::FeatureBatch& values = batch.sparse[f];
      const float* table = rows.tables[feature.table].data();
      float* out = grads->tables[feature.table].data();
      const float* grad = grad_x.data() + feature.x_offset;
      for (std::size_t r = 0; r < batch.rows; ++r, grad += x_dim) {
        if (values.offsets.empty()) {
          AddRow(out + static_cast<std::size_t>(values.slots[r]) * feature.dim, grad, feature.dim);
        } else {
          ScatterList(feature, ListSlots(values, r), table, grad, out);
        }
      }
    }
  };
  // A thread takes whole tables, so that each row's sum has one order.
  const auto tables = static_cast<std::int64_t>(schema_->tables.size());
  const auto values = static_cast<std::int64_t>(batch.rows * schema_->sparse.size());
  const std::int64_t grain = std::max<std::int64_t>(1, tables * kValuesPerThread / std::max<std::int64_t>(values, 1));
  pool_->For(tables, grain, [&](std::int64_t begin, std::int64_t end) {
    features_of(static_cast<std::size_t>(begin), static_cast<std::size_t>(end));
  });
}

}  // namespace gatemill::train
