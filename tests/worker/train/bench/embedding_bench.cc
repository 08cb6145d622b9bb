// The sparse half of a step on the worker: train_embedding_bench [--benchmark_filter=REGEX].
// Values a second, of batches of 4,096 samples; wall time, the second argument is the number of threads.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/parallel.h"
#include "common/random.h"
#include "worker/data/dataset.h"
#include "worker/data/schema.h"
#include "worker/train/embedding.h"

namespace gatemill::train {
namespace {

constexpr std::size_t kRows = 4096;
constexpr std::size_t kKeys = 1'000'000;  // of a table, before dedup

struct Shape {
  const char* name;
  int features;
  bool one_table;    // else each feature has its own
  int dim;
  std::size_t list;  // values a sample; 0: a feature without a separator
  Pooling pooling;
  bool uniform;      // else the chance of a key falls with its rank
};
constexpr Shape kShapes[] = {
    {"tables/16", 24, false, 16, 0, Pooling::kSum, false},
    {"tables/8", 40, false, 8, 0, Pooling::kSum, false},
    {"tables/4", 40, false, 4, 0, Pooling::kSum, false},
    {"table/16", 24, true, 16, 0, Pooling::kSum, false},
    {"table/64", 24, true, 64, 0, Pooling::kSum, false},
    {"table/10", 24, true, 10, 0, Pooling::kSum, false},
    {"uniform/16", 24, true, 16, 0, Pooling::kSum, true},
    {"mean/16", 4, true, 16, 10, Pooling::kMean, false},
    {"max/16", 4, true, 16, 10, Pooling::kMax, false},
};

struct Step {
  data::Schema schema;
  data::Batch batch;
  TableRows rows;
  std::vector<float> x;
  std::size_t values = 0;

  explicit Step(const Shape& shape) {
    RandomStream random(7, 0);
    batch.rows = kRows;
    schema.tables.resize(shape.one_table ? 1 : static_cast<std::size_t>(shape.features));
    batch.tables.resize(schema.tables.size());
    for (data::Table& table : schema.tables) table.dim = shape.dim;
    std::vector<std::unordered_map<std::uint64_t, std::uint32_t>> slots(schema.tables.size());
    for (int f = 0; f < shape.features; ++f) {
      const std::uint32_t t = shape.one_table ? 0 : static_cast<std::uint32_t>(f);
      schema.sparse.push_back({.table = t, .dim = shape.dim, .x_offset = f * shape.dim, .pooling = shape.pooling});
      data::FeatureBatch& feature = batch.sparse.emplace_back();
      if (shape.list > 0) feature.offsets.push_back(0);
      for (std::size_t r = 0; r < kRows; ++r) {
        const std::size_t count = shape.list > 0 ? random.Below(2 * shape.list + 1) : 1;
        for (std::size_t v = 0; v < count; ++v) {
          const double u = random.Uniform() * (shape.uniform ? 1.0 : std::log(static_cast<double>(kKeys)));
          const auto key = static_cast<std::uint64_t>(shape.uniform ? u * static_cast<double>(kKeys) : std::exp(u));
          data::TableBatch& table = batch.tables[t];
          const auto [at, is_new] = slots[t].emplace(key, static_cast<std::uint32_t>(table.keys.size()));
          if (is_new) {
            table.keys.push_back(key);
            table.counts.push_back(0);
          }
          ++table.counts[at->second];
          feature.slots.push_back(at->second);
        }
        if (shape.list > 0) feature.offsets.push_back(static_cast<std::uint32_t>(feature.slots.size()));
      }
      values += feature.slots.size();
    }
    schema.sparse_dim = shape.features * shape.dim;
    rows.Resize(schema, batch);
    for (auto& table : rows.tables) {
      for (float& value : table) value = static_cast<float>(random.Uniform());
    }
    x.resize(kRows * static_cast<std::size_t>(schema.x_dim()));
    for (float& value : x) value = static_cast<float>(random.Uniform());
  }
};

void SetRate(benchmark::State* state, const Step& step) {
  state->SetItemsProcessed(state->iterations() * static_cast<std::int64_t>(step.values));
}

void BM_Gather(benchmark::State& state, const Shape& shape) {
  Step step(shape);
  ThreadPool pool(static_cast<int>(state.range(0)));
  const EmbeddingLayer layer(&step.schema, &pool);
  for (auto _ : state) {
    layer.Gather(step.batch, step.rows, step.x);
    benchmark::ClobberMemory();
  }
  SetRate(&state, step);
}

void BM_Scatter(benchmark::State& state, const Shape& shape) {
  const Step step(shape);
  ThreadPool pool(static_cast<int>(state.range(0)));
  const EmbeddingLayer layer(&step.schema, &pool);
  TableRows grads;
  for (auto _ : state) {
    layer.Scatter(step.batch, step.rows, step.x, &grads);
    benchmark::ClobberMemory();
  }
  SetRate(&state, step);
}

void Register() {
  for (const Shape& shape : kShapes) {
    for (const auto& [name, run] : {std::pair("BM_Gather/", &BM_Gather), std::pair("BM_Scatter/", &BM_Scatter)}) {
      benchmark::RegisterBenchmark((name + std::string(shape.name)).c_str(), run, shape)
          ->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMicrosecond);
    }
  }
}

}  // namespace
}  // namespace gatemill::train

int main(int argc, char** argv) {
  gatemill::train::Register();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
