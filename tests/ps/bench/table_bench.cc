// The table engine's hot functions, each by itself: ps_table_bench [--benchmark_filter=REGEX].
// Rows a second, for a table of as many rows as the argument says; 16 numbers, row-wise Adagrad, uniform keys.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/keys.h"
#include "common/random.h"
#include "ps/table/half.h"
#include "ps/table/kernels.h"
#include "ps/table/pages.h"
#include "ps/table/row_index.h"
#include "ps/table/table.h"

namespace gatemill::ps {
namespace {

constexpr int kDim = 16;
constexpr std::size_t kBatch = 65'536;
constexpr std::size_t kBatches = 32;
constexpr std::uint64_t kSeed = 42;

std::uint64_t KeyOfRow(std::uint64_t row) { return Mix64(row + 1) * 0x9e3779b97f4a7c15ULL; }

std::unique_ptr<Table> FilledTable(std::uint64_t rows, FloatType dtype) {
  TableSpec spec;
  spec.dtype = dtype;
  spec.name = "bench";
  spec.dim = kDim;
  spec.optimizer.type = "rowwise_adagrad";
  std::unique_ptr<Table> table = Table::Create(spec, kSeed).value();
  std::vector<std::uint64_t> keys(8192);
  const std::vector<float> grads(keys.size() * kDim, 0.01F);
  for (std::uint64_t row = 0; row < rows; row += keys.size()) {
    for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = KeyOfRow(row + i);
    table->Update(keys, grads, 0);
  }
  return table;
}

// The last tables that were asked for, of one size: filling one takes longer than measuring it.
Table& TableOf(std::uint64_t rows, FloatType dtype) {
  static std::pair<std::uint64_t, std::map<FloatType, std::unique_ptr<Table>>> kept;
  if (kept.first != rows) kept.second.clear();
  kept.first = rows;
  std::unique_ptr<Table>& table = kept.second[dtype];
  if (table == nullptr) table = FilledTable(rows, dtype);
  return *table;
}

std::vector<std::uint64_t> UniformKeys(std::uint64_t rows) {
  RandomStream random(kSeed, 0);
  std::vector<std::uint64_t> keys(kBatch * kBatches);
  for (std::uint64_t& key : keys) key = KeyOfRow(random.Below(rows));
  return keys;
}

std::span<const std::uint64_t> BatchOf(const std::vector<std::uint64_t>& keys, std::size_t number) {
  return std::span(keys).subspan(number % kBatches * kBatch, kBatch);
}

void SetRate(benchmark::State* state) {
  state->SetItemsProcessed(state->iterations() * static_cast<std::int64_t>(kBatch));
}

// The limit: rows of 64 bytes whose positions are known, over memory of the same kind.
void BM_Gather(benchmark::State& state) {
  const auto rows = static_cast<std::uint64_t>(state.range(0));
  Pages pages;
  pages.Reserve(rows * kDim * sizeof(float));
  std::memset(pages.data(), 1, rows * kDim * sizeof(float));
  RandomStream random(kSeed, 0);
  std::vector<std::uint32_t> positions(kBatch * kBatches);
  for (std::uint32_t& position : positions) position = static_cast<std::uint32_t>(random.Below(rows));
  std::vector<float> out(kBatch * kDim);
  const RowMemory memory{.embeddings = pages.data(), .states = nullptr, .dim = kDim, .state_bytes = 0};
  std::size_t number = 0;
  for (auto _ : state) {
    BestKernels().gather(memory, positions.data() + number++ % kBatches * kBatch, kBatch, nullptr, out.data());
    benchmark::ClobberMemory();
  }
  SetRate(&state);
}

void BM_IndexFind(benchmark::State& state) {
  const auto rows = static_cast<std::uint64_t>(state.range(0));
  RowIndex index;
  for (std::uint64_t row = 0; row < rows; ++row) index.Insert(KeyOfRow(row), static_cast<std::uint32_t>(row));
  const std::vector<std::uint64_t> keys = UniformKeys(rows);
  std::vector<std::uint32_t> found(kBatch);
  std::size_t number = 0;
  for (auto _ : state) {
    index.Find(BatchOf(keys, number++), found.data());
    benchmark::ClobberMemory();
  }
  SetRate(&state);
  state.counters["bytes_per_key"] = static_cast<double>(index.memory_bytes()) / static_cast<double>(rows);
}

void BM_TableRead(benchmark::State& state, FloatType dtype) {
  const Table& table = TableOf(static_cast<std::uint64_t>(state.range(0)), dtype);
  const std::vector<std::uint64_t> keys = UniformKeys(static_cast<std::uint64_t>(state.range(0)));
  std::vector<float> out(kBatch * kDim);
  std::size_t number = 0;
  for (auto _ : state) {
    table.Read(BatchOf(keys, number++), ReadMode::kTrain, {.rows = out});
    benchmark::ClobberMemory();
  }
  SetRate(&state);
}

void BM_TableUpdate(benchmark::State& state, FloatType dtype) {
  Table& table = TableOf(static_cast<std::uint64_t>(state.range(0)), dtype);
  const std::vector<std::uint64_t> keys = UniformKeys(static_cast<std::uint64_t>(state.range(0)));
  const std::vector<float> grads(kBatch * kDim, 0.01F);
  std::size_t number = 0;
  for (auto _ : state) {
    table.Update(BatchOf(keys, number), grads, number);
    ++number;
  }
  SetRate(&state);
  state.counters["bytes_per_row"] =
      static_cast<double>(table.stats().memory_bytes) / static_cast<double>(table.stats().rows);
}

void BM_TableInsert(benchmark::State& state) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(FilledTable(static_cast<std::uint64_t>(state.range(0)), FloatType::kFloat32));
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void BM_PackFloats(benchmark::State& state) {
  const auto type = static_cast<FloatType>(state.range(0));
  const std::vector<float> in(kDim, 0.3F);
  std::vector<std::byte> out(kDim * sizeof(float));
  const HalfKernels& half = BestHalfKernels();
  for (auto _ : state) {
    half.pack(type, in, out.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations());
}

#define GM_SIZES ->Arg(100'000)->Arg(1 << 20)->Arg(1 << 24)
BENCHMARK(BM_Gather) GM_SIZES;
BENCHMARK(BM_IndexFind) GM_SIZES;
BENCHMARK(BM_TableInsert)->Arg(1 << 20)->Arg(1 << 24)->Unit(benchmark::kMillisecond);
BENCHMARK(BM_PackFloats)->Arg(1)->Arg(2);
void RegisterBySize() {  // together for each size, so that a table is filled once
  for (const std::int64_t rows : {100'000, 1 << 20, 1 << 24}) {
    for (const FloatType dtype : {FloatType::kFloat32, FloatType::kFloat16, FloatType::kBfloat16}) {
      const std::string type = dtype == FloatType::kFloat32 ? "" : "_" + std::string(NameOf(dtype));
      benchmark::RegisterBenchmark(("BM_TableRead" + type).c_str(), BM_TableRead, dtype)->Arg(rows);
      benchmark::RegisterBenchmark(("BM_TableUpdate" + type).c_str(), BM_TableUpdate, dtype)->Arg(rows);
    }
  }
}

}  // namespace
}  // namespace gatemill::ps

int main(int argc, char** argv) {
  gatemill::ps::RegisterBySize();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
