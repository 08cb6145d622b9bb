// The dedup of a batch: data_assembler_bench [--benchmark_filter=REGEX].
// Values a second, of batches of as many samples as the argument says.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/random.h"
#include "tests/temp_dir.h"
#include "worker/data/batch_assembler.h"
#include "worker/data/columns.h"
#include "worker/data/dataset.h"
#include "worker/data/schema.h"

namespace gatemill::data {
namespace {

constexpr std::size_t kRows = 200'000;
constexpr std::size_t kFeatures = 20;
constexpr std::size_t kListValues = 5;  // of the one list
constexpr double kKeys = 1'000'000.0;

struct Shape {
  const char* name;
  bool one_table;
  bool uniform;  // else the chance of a key falls with its rank
  double oov_ratio;
};
constexpr Shape kShapes[] = {{"tables", false, false, 0.0}, {"tables_oov", false, false, 0.1},
                             {"table", true, false, 0.0},   {"uniform", true, true, 0.0}};

struct Log {
  TempDir dir;
  Config config;
  Schema schema;
  std::shared_ptr<const Columns> columns;
  std::vector<std::uint32_t> order;

  explicit Log(const Shape& shape) {
    RandomStream random(7, 0);
    const auto value = [&] {
      const double u = random.Uniform();
      return std::to_string(static_cast<std::uint64_t>(shape.uniform ? u * kKeys : std::exp(u * std::log(kKeys))));
    };
    std::string text = "y,n,tags";
    std::vector<std::string> names;
    for (std::size_t f = 0; f < kFeatures; ++f) text += "," + names.emplace_back("f" + std::to_string(f));
    for (std::size_t r = 0; r < kRows; ++r) {
      text += "\n1,0.5,";
      for (std::size_t v = 0; v < kListValues; ++v) text += (v > 0 ? "|" : "") + value();
      for (std::size_t f = 0; f < kFeatures; ++f) text += "," + value();
    }
    config.path = "bench.yaml";
    config.data.train.files = {dir.Write("log.csv", text + "\n")};
    config.tasks.resize(1);
    config.tasks[0].name = config.tasks[0].label_name = "y";
    config.tasks[0].loss[0].type = "bce";
    config.features.resize(3);
    config.features[0].columns = {"n"};
    config.features[0].type = FeatureType::kDense;
    config.features[1].columns = names;
    config.features[2].columns = {"tags"};
    config.features[2].separator = "|";
    for (const std::size_t f : {1, 2}) {
      config.features[f].embedding_dim = 16;
      if (shape.one_table) config.features[f].table = "shared";
    }
    schema = ResolveSchema(config, ReadColumnNames(config.data).value()).value();
    for (Table& table : schema.tables) {
      table.oov_ratio = shape.oov_ratio;
      table.oov_buckets = shape.oov_ratio > 0.0 ? 1 : 0;
    }
    Statistics statistics;
    const ReadOptions read{.schema = &schema, .data = &config.data};
    columns = std::dynamic_pointer_cast<const Columns>(ReadDataset(read, Part::kTrain, nullptr, true, &statistics).value());
    order = EpochOrder({}, 0, static_cast<std::uint32_t>(columns->rows()));
  }
};

// The last log that was asked for: reading one takes longer than measuring it.
const Log& LogOf(const Shape& shape) {
  static std::unique_ptr<const Log> log;
  static const char* name = nullptr;
  if (name != shape.name) {
    log.reset();
    log = std::make_unique<const Log>(shape);
    name = shape.name;
  }
  return *log;
}

void BM_Assemble(benchmark::State& state, const Shape& shape) {
  const Log& log = LogOf(shape);
  const auto size = static_cast<std::size_t>(state.range(0));
  BatchAssembler assembler({});
  Batch batch;
  std::size_t begin = 0;
  for (auto _ : state) {
    assembler.Assemble(*log.columns, std::span(log.order).subspan(begin, size), &batch);
    begin = begin + 2 * size <= log.order.size() ? begin + size : 0;
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(size * (kFeatures + kListValues)));
}

void Register() {
  for (const Shape& shape : kShapes) {
    benchmark::RegisterBenchmark(("BM_Assemble/" + std::string(shape.name)).c_str(), BM_Assemble, shape)
        ->Arg(256)->Arg(4096)->Unit(benchmark::kMicrosecond);
  }
}

}  // namespace
}  // namespace gatemill::data

int main(int argc, char** argv) {
  gatemill::data::Register();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
