#include "worker/train/embedding.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace gatemill::train
