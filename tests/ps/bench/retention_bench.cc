// Admission and eviction, each by itself: ps_retention_bench [--benchmark_filter=REGEX]. Keys or rows a second.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "common/keys.h"
#include "ps/retention.h"
#include "ps/store/row_store.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 42;
constexpr std::size_t kBatch = 8192;

struct Tables {
  explicit Tables(const TableSpec& spec) {
    std::vector<TableSpec> specs{spec};
    if (spec.admission.min_count > 1) specs.push_back(SightingsTable(spec));
    rows = TieredTables::Create({.seed = kSeed}, specs, NewMemoryRowStore()).value();
    retention = std::make_unique<Retention>(Retention::Create(rows.get(), specs, {}).value());
  }
  std::unique_ptr<TieredTables> rows;
  std::unique_ptr<Retention> retention;
};

TableSpec Spec() {
  TableSpec spec{.name = "bench", .dim = 16};
  spec.optimizer.type = "rowwise_adagrad";
  return spec;
}

std::vector<std::uint64_t> KeysFrom(std::uint64_t first) {
  std::vector<std::uint64_t> keys(kBatch);
  std::iota(keys.begin(), keys.end(), first);
  for (std::uint64_t& key : keys) key = Mix64(key + 1);
  return keys;
}

// Values that come once: each step's push names new ones, and the oldest counts give way.
void BM_SeeNewKeys(benchmark::State& state) {
  TableSpec spec = Spec();
  spec.admission = {.min_count = 5, .max_candidates = state.range(0)};
  const Tables tables(spec);
  std::uint64_t step = 0;
  for (; step * kBatch < static_cast<std::uint64_t>(state.range(0)); ++step) {
    if (!tables.retention->See(0, KeysFrom(step * kBatch), step).ok()) return state.SkipWithError("See failed");
  }
  for (auto _ : state) {
    state.PauseTiming();
    const std::vector<std::uint64_t> keys = KeysFrom(step * kBatch);
    state.ResumeTiming();
    const bool ok = tables.retention->See(0, keys, step).ok() && tables.retention->EndStep(step, 0).ok();
    if (!ok) return state.SkipWithError("See failed");
    ++step;
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(kBatch));
}
BENCHMARK(BM_SeeNewKeys)->Arg(1'000'000);

// Values on their way to a row: each is counted again and again, and none is admitted.
void BM_SeeKnownKeys(benchmark::State& state) {
  TableSpec spec = Spec();
  spec.admission = {.min_count = kMaxSightings, .max_candidates = 2 * state.range(0)};
  const Tables tables(spec);
  const auto batches = static_cast<std::uint64_t>(state.range(0)) / kBatch;
  std::uint64_t step = 0;
  for (auto _ : state) {
    state.PauseTiming();
    const std::vector<std::uint64_t> keys = KeysFrom(Mix64(step) % batches * kBatch);
    state.ResumeTiming();
    if (!tables.retention->See(0, keys, step++).ok()) return state.SkipWithError("See failed");
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(kBatch));
}
BENCHMARK(BM_SeeKnownKeys)->Arg(1'000'000);

// A sweep that finds nothing idle, of a table in memory: headers a second.
void BM_Sweep(benchmark::State& state) {
  TableSpec spec = Spec();
  spec.eviction.idle_steps = 1LL << 20;
  const Tables tables(spec);
  const std::vector<float> grads(kBatch * 16, 0.01F);
  const auto rows = static_cast<std::uint64_t>(state.range(0));
  for (std::uint64_t row = 0; row < rows; row += kBatch) {
    if (!tables.rows->Update(0, KeysFrom(row), grads, 100).ok()) return state.SkipWithError("Update failed");
  }
  std::uint32_t vshard = 0;
  for (auto _ : state) benchmark::DoNotOptimize(tables.rows->EraseIdle(0, vshard++ % kNumVshards, 50).ok());
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(rows / kNumVshards));
}
BENCHMARK(BM_Sweep)->Arg(1 << 24);

}  // namespace
}  // namespace gatemill::ps

BENCHMARK_MAIN();
