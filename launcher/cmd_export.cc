// gatemill export RUN|CHECKPOINT --format safetensors --output FILE: the dense parameters and, if asked, the tables.
// Tables are written as TABLE.keys [n], TABLE.rows [n, dim] and TABLE.state [n, state_dim], sorted by key, so that equal
// models give equal files whatever the number of servers was.

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/keys.h"
#include "common/safetensors.h"
#include "launcher/command.h"
#include "launcher/output.h"
#include "launcher/tables_view.h"

namespace gatemill::launcher {
namespace {

struct ExportArgs {
  std::string path;
  std::string format = "safetensors";
  std::string output;
  std::string tables = "none";
  bool json = false;
};

// A table's rows in memory, ordered by key.
struct SortedRows {
  std::vector<std::uint64_t> keys;
  std::vector<float> rows;
  std::vector<float> state;
};

Result<SortedRows> ReadSorted(ps::CheckpointReader* reader, std::uint32_t table, std::size_t dim) {
  std::vector<std::uint64_t> keys;
  std::vector<float> values;
  std::size_t width = 0;
  GM_RETURN_IF_ERROR(reader->Scan(table, 0, kNumVshards,
                                  [&](std::uint64_t key, std::span<const float> row, const ps::RowHeader&) {
                                    width = row.size();
                                    keys.push_back(key);
                                    values.insert(values.end(), row.begin(), row.end());
                                    return Ok();
                                  }));
  std::vector<std::size_t> order(keys.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return keys[a] < keys[b]; });
  SortedRows sorted;
  for (const std::size_t i : order) {
    const auto row = values.begin() + static_cast<std::ptrdiff_t>(i * width);
    const auto split = row + static_cast<std::ptrdiff_t>(dim);
    sorted.keys.push_back(keys[i]);
    sorted.rows.insert(sorted.rows.end(), row, split);
    sorted.state.insert(sorted.state.end(), split, row + static_cast<std::ptrdiff_t>(width));
  }
  return sorted;
}

// Dense parameters and batch-norm statistics, without optimizer state unless the tables come with theirs.
bool Exported(const std::string& name, bool with_state) { return with_state || !name.starts_with("optimizer/"); }

Status RunExport(const ExportArgs& args) {
  if (args.format != "safetensors") {
    return InvalidInput("--format " + args.format + " is unknown; there is: safetensors");
  }
  GM_RETURN_IF_ERROR(CheckOutputFile(args.output));
  GM_ASSIGN_OR_RETURN(const TablesView view, OpenTables(args.path));
  const bool with_tables = args.tables == "all";
  const auto& specs = view.rows->tables().specs;
  std::vector<SortedRows> tables;
  std::vector<TensorInfo> infos;
  std::vector<std::span<const float>> dense;
  for (const auto& tensor : view.checkpoint.dense) {
    if (!Exported(tensor.name, with_tables)) continue;
    infos.push_back({.name = tensor.name, .type = TensorType::kF32, .shape = tensor.shape});
    dense.emplace_back(tensor.values);
  }
  for (std::uint32_t t = 0; with_tables && t < specs.size(); ++t) {
    if (ps::HoldsSightings(specs[t])) continue;  // no embeddings
    GM_ASSIGN_OR_RETURN(SortedRows sorted, ReadSorted(view.rows.get(), t, static_cast<std::size_t>(specs[t].dim)));
    const auto n = static_cast<std::int64_t>(sorted.keys.size());
    const auto state_dim = n > 0 ? static_cast<std::int64_t>(sorted.state.size()) / n : 0;
    infos.push_back({.name = specs[t].name + ".keys", .type = TensorType::kU64, .shape = {n}});
    infos.push_back({.name = specs[t].name + ".rows", .type = TensorType::kF32, .shape = {n, specs[t].dim}});
    infos.push_back({.name = specs[t].name + ".state", .type = TensorType::kF32, .shape = {n, state_dim}});
    tables.push_back(std::move(sorted));
  }
  GM_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(args.output, infos));
  std::size_t index = 0;
  for (const auto& values : dense) GM_RETURN_IF_ERROR(writer->Append(index++, values));
  std::size_t rows = 0;
  for (const SortedRows& table : tables) {
    GM_RETURN_IF_ERROR(writer->Append(index++, std::span<const std::uint64_t>(table.keys)));
    GM_RETURN_IF_ERROR(writer->Append(index++, std::span<const float>(table.rows)));
    GM_RETURN_IF_ERROR(writer->Append(index++, std::span<const float>(table.state)));
    rows += table.keys.size();
  }
  GM_RETURN_IF_ERROR(writer->Finish());
  std::fprintf(ReportStream(args.json), "%zu tensors, %zu rows of tables in %s\n", infos.size(), rows, args.output.c_str());
  if (args.json) {
    PrintJsonLine(nlohmann::json{{"tensors", infos.size()}, {"rows", rows}, {"output", args.output}});
  }
  return Ok();
}

}  // namespace

RunCommand AddExport(CLI::App* app) {
  auto args = std::make_shared<ExportArgs>();
  app->add_option("path", args->path, "a run directory (its best checkpoint) or a checkpoint")->required();
  app->add_option("--format", args->format, "safetensors")->required();
  app->add_option("--output", args->output, "the file to write; one that exists is replaced")->required();
  app->add_option("--tables", args->tables, "none, or all: every row of every table and all optimizer state")
      ->check(CLI::IsMember({"none", "all"}));
  app->add_flag("--json", args->json, "the result as one JSON object, last on standard output");
  return [args] { return RunExport(*args); };
}

}  // namespace gatemill::launcher
