#include "worker/train/embedding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "common/random.h"

namespace gatemill::train {
namespace {

data::Schema SchemaOf(Pooling pooling) {
  data::Schema schema;
  schema.tables = {{.name = "id", .dim = 2}, {.name = "tag", .dim = 3, .oov_buckets = 4, .oov_table = 2}};
  schema.sparse = {{.name = "a", .table = 0, .dim = 2, .x_offset = 0},
                   {.name = "b", .table = 0, .dim = 2, .x_offset = 2},
                   {.name = "tags", .table = 1, .dim = 3, .x_offset = 4, .separator = "|", .pooling = pooling}};
  schema.sparse_dim = 7;
  schema.dense_dim = 1;
  return schema;
}

// Three samples; a and b share a table and a row; the second sample's list is empty.
data::Batch BatchOf() {
  data::Batch batch;
  batch.rows = 3;
  batch.sparse.resize(3);
  batch.sparse[0].slots = {0, 1, 0};
  batch.sparse[1].slots = {1, 1, 2};
  batch.sparse[2].slots = {0, 1, 2};
  batch.sparse[2].offsets = {0, 2, 2, 3};
  batch.tables = {{.keys = {10, 11, 12}, .counts = {2, 3, 1}, .oov = {}}, {.keys = {20, 21}, .counts = {1, 1}, .oov = {3}}};
  batch.dense = {0.5F, 0.6F, 0.7F};
  return batch;
}

TableRows RowsOf() { return {.tables = {{1, 2, 3, 4, 5, 6}, {1, 8, 3, 4, 5, 9, 7, 7, 7}}}; }

TEST(EmbeddingLayer, GathersPoolsAndAppendsDense) {
  ThreadPool pool(2);
  std::vector<float> x(3 * 8);
  const auto gather = [&](Pooling pooling) {
    const data::Schema schema = SchemaOf(pooling);
    EmbeddingLayer(&schema, &pool).Gather(BatchOf(), RowsOf(), x);
    return x;
  };
  EXPECT_EQ(gather(Pooling::kSum), (std::vector<float>{1, 2, 3, 4, 5, 13, 12, .5F,  //
                                                       3, 4, 3, 4, 0, 0, 0, .6F,    //
                                                       1, 2, 5, 6, 7, 7, 7, .7F}));
  EXPECT_EQ(gather(Pooling::kMean)[4], 2.5F);
  EXPECT_EQ(gather(Pooling::kMax)[5], 8.0F);
}

// Scatter is Gather's derivative: <grad_x, Gather(rows + e) - Gather(rows)> = <Scatter(grad_x), e> for small e.
TEST(EmbeddingLayer, ScatterIsTheDerivativeOfGather) {
  for (Pooling pooling : {Pooling::kSum, Pooling::kMean, Pooling::kMax}) {
    for (int threads : {1, 3}) {
      ThreadPool pool(threads);
      const data::Schema schema = SchemaOf(pooling);
      const EmbeddingLayer layer(&schema, &pool);
      const data::Batch batch = BatchOf();
      RandomStream random(3, 1);
      std::vector<float> grad_x(3 * 8);
      for (float& g : grad_x) g = static_cast<float>(random.Uniform());
      TableRows grads;
      layer.Scatter(batch, RowsOf(), grad_x, &grads);
      for (std::size_t t = 0; t < 2; ++t) {
        for (std::size_t i = 0; i < grads.tables[t].size(); ++i) {
          TableRows moved = RowsOf();
          constexpr float kStep = 0.25F;  // exact in float, and too small to change which value is the maximum
          moved.tables[t][i] += kStep;
          std::vector<float> before(3 * 8);
          std::vector<float> after(3 * 8);
          layer.Gather(batch, RowsOf(), before);
          layer.Gather(batch, moved, after);
          double change = 0;
          for (std::size_t k = 0; k < before.size(); ++k) {
            change += static_cast<double>(grad_x[k]) * static_cast<double>(after[k] - before[k]);
          }
          EXPECT_NEAR(static_cast<double>(grads.tables[t][i]), change / static_cast<double>(kStep), 1e-5) << t << " " << i;
        }
      }
    }
  }
}

// ---- the same bits as plain loops ------------------------------------------------------------------------------------

// What Scatter must give: each row's sum in the order of features, samples and values, one float at a time.
std::vector<std::vector<float>> PlainScatter(const data::Schema& schema, const data::Batch& batch, const TableRows& rows,
                                             const std::vector<float>& grad_x) {
  TableRows grads;
  grads.Resize(schema, batch);
  for (auto& table : grads.tables) std::fill(table.begin(), table.end(), 0.0F);
  for (std::size_t f = 0; f < schema.sparse.size(); ++f) {
    const data::SparseFeature& feature = schema.sparse[f];
    const data::FeatureBatch& values = batch.sparse[f];
    const std::vector<float>& table = rows.tables[feature.table];
    std::vector<float>& out = grads.tables[feature.table];
    const auto dim = static_cast<std::size_t>(feature.dim);
    const auto x_dim = static_cast<std::size_t>(schema.x_dim());
    const auto x_offset = static_cast<std::size_t>(feature.x_offset);
    for (std::size_t r = 0; r < batch.rows; ++r) {
      const std::size_t begin = values.offsets.empty() ? r : values.offsets[r];
      const std::size_t end = values.offsets.empty() ? r + 1 : values.offsets[r + 1];
      for (std::size_t i = 0; i < dim; ++i) {
        const float grad = grad_x[r * x_dim + x_offset + i];
        std::size_t best = begin;
        for (std::size_t v = begin; v < end; ++v) {
          const std::size_t at = values.slots[v] * dim + i;
          if (table[at] > table[values.slots[best] * dim + i]) best = v;
          if (values.offsets.empty()) {
            out[at] += grad;
          } else if (feature.pooling != Pooling::kMax) {
            const float scale = feature.pooling == Pooling::kMean ? 1.0F / static_cast<float>(end - begin) : 1.0F;
            out[at] += grad * scale;
          }
        }
        const bool is_maximum = !values.offsets.empty() && feature.pooling == Pooling::kMax && begin < end;
        if (is_maximum) out[values.slots[best] * dim + i] += grad;
      }
    }
  }
  return grads.tables;
}

// What Gather must give.
std::vector<float> PlainGather(const data::Schema& schema, const data::Batch& batch, const TableRows& rows) {
  std::vector<float> x;
  for (std::size_t r = 0; r < batch.rows; ++r) {
    for (std::size_t f = 0; f < schema.sparse.size(); ++f) {
      const data::SparseFeature& feature = schema.sparse[f];
      const data::FeatureBatch& values = batch.sparse[f];
      const std::vector<float>& table = rows.tables[feature.table];
      const auto dim = static_cast<std::size_t>(feature.dim);
      const std::size_t begin = values.offsets.empty() ? r : values.offsets[r];
      const std::size_t end = values.offsets.empty() ? r + 1 : values.offsets[r + 1];
      for (std::size_t i = 0; i < dim; ++i) {
        float pooled = begin < end ? table[values.slots[begin] * dim + i] : 0.0F;
        for (std::size_t v = begin + 1; v < end; ++v) {
          const float value = table[values.slots[v] * dim + i];
          pooled = feature.pooling == Pooling::kMax ? std::max(pooled, value) : pooled + value;
        }
        if (feature.pooling == Pooling::kMean && end > begin + 1) pooled *= 1.0F / static_cast<float>(end - begin);
        x.push_back(pooled);
      }
    }
    const auto dense_dim = static_cast<std::ptrdiff_t>(schema.dense_dim);
    const auto dense = batch.dense.begin() + static_cast<std::ptrdiff_t>(r) * dense_dim;
    x.insert(x.end(), dense, dense + dense_dim);
  }
  return x;
}

std::vector<std::uint32_t> Bits(const std::vector<float>& floats) {
  std::vector<std::uint32_t> bits;
  for (const float f : floats) bits.push_back(std::bit_cast<std::uint32_t>(f));
  return bits;
}

// A step with tables of few slots and of many, numbered by first use or not, some without a use.
struct RandomStep {
  data::Schema schema;
  data::Batch batch;
  TableRows rows;
  std::vector<float> grad_x;

  explicit RandomStep(std::uint64_t seed) : random(5, seed) {
    constexpr std::uint64_t kSizes[] = {0, 1, 3, 300, 3000};
    batch.rows = kSizes[random.Below(std::size(kSizes))];
    const std::size_t tables = 1 + random.Below(4);
    for (std::size_t t = 0; t < tables; ++t) {
      constexpr int kCommon[] = {4, 8, 16, 32, 64};
      const int odd = 1 + static_cast<int>(random.Below(70));
      schema.tables.push_back({.dim = random.Below(2) == 0 ? kCommon[random.Below(5)] : odd});
      batch.tables.emplace_back();
    }
    const std::size_t features = tables + random.Below(4);
    for (std::size_t f = 0; f < features; ++f) {
      AddFeature(static_cast<std::uint32_t>(f < tables ? f : random.Below(tables)));
    }
    schema.dense_dim = static_cast<int>(random.Below(3));
    batch.dense = Floats(batch.rows * static_cast<std::size_t>(schema.dense_dim));
    for (std::size_t t = 0; t < tables; ++t) FinishTable(static_cast<std::uint32_t>(t));
    rows.Resize(schema, batch);
    for (auto& table : rows.tables) table = Floats(table.size());
    grad_x = Floats(batch.rows * static_cast<std::size_t>(schema.x_dim()));
  }

 private:
  // Few different values, so that maxima are tied; both zeros, and now and then what is no finite number.
  std::vector<float> Floats(std::size_t count) {
    std::vector<float> floats(count);
    const bool few = random.Below(2) == 0;
    const bool odd = random.Below(8) == 0;
    for (float& f : floats) {
      f = few ? static_cast<float>(random.Below(4)) - 2.0F : static_cast<float>(random.Normal());
      if (random.Below(16) == 0) f = -0.0F;
      if (odd && random.Below(64) == 0) f = std::numeric_limits<float>::infinity();
    }
    return floats;
  }

  void AddFeature(std::uint32_t t) {
    const bool list = random.Below(2) == 0;
    const int dim = schema.tables[t].dim;
    schema.sparse.push_back({.table = t, .dim = dim, .x_offset = schema.sparse_dim,
                             .pooling = static_cast<Pooling>(random.Below(3))});
    schema.sparse_dim += dim;
    data::FeatureBatch& values = batch.sparse.emplace_back();
    if (list) values.offsets.push_back(0);
    const std::uint64_t keys = 1 + random.Below(random.Below(2) == 0 ? 10 : 5000);
    for (std::size_t r = 0; r < batch.rows; ++r) {
      const std::size_t count = list ? random.Below(7) : 1;
      for (std::size_t v = 0; v < count; ++v) values.slots.push_back(static_cast<std::uint32_t>(random.Below(keys)));
      if (list) values.offsets.push_back(static_cast<std::uint32_t>(values.slots.size()));
    }
  }

  // Numbers the slots by first use, as a batch does, or leaves them as they fell; the last ones become oov rows.
  void FinishTable(std::uint32_t t) {
    constexpr std::uint32_t kNone = 0xffffffff;
    data::TableBatch& table = batch.tables[t];
    const bool by_first_use = random.Below(4) != 0;
    std::vector<std::uint32_t> slot_of(5001, kNone);
    std::uint32_t slots = 0;
    for (std::size_t f = 0; f < schema.sparse.size(); ++f) {
      if (schema.sparse[f].table != t) continue;
      for (std::uint32_t& slot : batch.sparse[f].slots) {
        std::uint32_t& number = slot_of[slot];
        if (number == kNone) number = by_first_use ? slots : slot;
        slots = std::max(slots, number + 1);
        slot = number;
      }
    }
    slots += static_cast<std::uint32_t>(random.Below(3));
    table.oov.resize(random.Below(std::min<std::uint32_t>(slots, 3) + 1));
    table.keys.resize(slots - table.oov.size());
    table.counts.resize(table.keys.size());
    for (std::size_t f = 0; f < schema.sparse.size(); ++f) {
      if (schema.sparse[f].table != t) continue;
      for (const std::uint32_t slot : batch.sparse[f].slots) {
        if (slot < table.counts.size()) ++table.counts[slot];
      }
    }
  }

  RandomStream random;
};

// For every instruction set that this CPU has and any number of threads.
TEST(EmbeddingLayer, SameBitsAsPlainLoops) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const RandomStep step(seed);
    const auto scattered = PlainScatter(step.schema, step.batch, step.rows, step.grad_x);
    const auto gathered = Bits(PlainGather(step.schema, step.batch, step.rows));
    for (const int threads : {1, 2, 4}) {
      ThreadPool pool(threads);
      for (const ps::Isa isa : {ps::Isa::kBaseline, ps::Isa::kAvx2, ps::Isa::kAvx512}) {
        const PoolingKernels* kernels = PoolingKernelsFor(isa);
        if (kernels == nullptr) continue;
        SCOPED_TRACE("seed " + std::to_string(seed) + ", " + std::to_string(threads) + " threads, instruction set " +
                     std::to_string(static_cast<int>(isa)));
        const EmbeddingLayer layer(&step.schema, &pool, *kernels);
        std::vector<float> x(step.grad_x.size(), 7.0F);
        layer.Gather(step.batch, step.rows, x);
        ASSERT_EQ(Bits(x), gathered);
        TableRows grads;
        grads.Resize(step.schema, step.batch);
        for (auto& table : grads.tables) std::fill(table.begin(), table.end(), 7.0F);  // what an earlier step left
        layer.Scatter(step.batch, step.rows, step.grad_x, &grads);
        for (std::size_t t = 0; t < scattered.size(); ++t) ASSERT_EQ(Bits(grads.tables[t]), Bits(scattered[t])) << t;
      }
    }
  }
}

}  // namespace
}  // namespace gatemill::train
