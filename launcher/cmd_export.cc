// gatemill export RUN|CHECKPOINT --format safetensors --output FILE: the dense parameters and, if asked, the tables.
// Tables are written as TABLE.keys [n], TABLE.rows [n, dim] and TABLE.state [n, state_dim], sorted by key, so that equal
// models give equal files whatever the number of servers was. With --since CHECKPOINT only the rows that are not in that one with
// the same numbers, and TABLE.erased [m], the keys that only that one has.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
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
  std::optional<std::string> tables;  // none: with --since all, else none
  std::string since;  // a checkpoint; "" = everything
  bool json = false;
};

// A table's rows in memory, ordered by key.
struct SortedRows {
  std::vector<std::uint64_t> keys;
  std::vector<float> rows;
  std::vector<float> state;
  std::vector<std::uint64_t> erased;
};

// The rows of one vshard of an older checkpoint, asked for in ascending order of their keys.
class OlderRows {
 public:
  // `reader`: null = it has none.
  OlderRows(ps::CheckpointReader* reader, std::uint32_t table) : reader_(reader), table_(table) {}

  // *erased: gets the rest of the vshard before.
  Status Begin(std::uint32_t vshard, std::vector<std::uint64_t>* erased) {
    End(erased);
    keys_.clear();
    values_.clear();
    next_ = 0;
    if (reader_ == nullptr) return Ok();
    return reader_->Scan(table_, vshard, vshard + 1, [&](std::uint64_t key, std::span<const float> row, const ps::RowHeader&) {
      keys_.push_back(key);
      values_.insert(values_.end(), row.begin(), row.end());
      return Ok();
    });
  }
  // Has it this row, too? *erased: gets the keys before that nobody asked for.
  bool Has(std::uint64_t key, std::span<const float> row, std::vector<std::uint64_t>* erased) {
    while (next_ < keys_.size() && keys_[next_] < key) erased->push_back(keys_[next_++]);
    if (next_ == keys_.size() || keys_[next_] != key) return false;
    const std::size_t width = values_.size() / keys_.size();
    const float* older = values_.data() + width * next_++;
    return row.size() == width && std::memcmp(older, row.data(), row.size_bytes()) == 0;
  }
  void End(std::vector<std::uint64_t>* erased) {
    erased->insert(erased->end(), keys_.begin() + static_cast<std::ptrdiff_t>(next_), keys_.end());
    next_ = keys_.size();
  }

 private:
  ps::CheckpointReader* reader_;
  const std::uint32_t table_;
  std::vector<std::uint64_t> keys_;
  std::vector<float> values_;  // [keys, dim + state_dim]
  std::size_t next_ = 0;
};

Result<SortedRows> ReadSorted(ps::CheckpointReader* reader, std::uint32_t table, std::size_t dim, OlderRows older) {
  std::vector<std::uint64_t> keys;
  std::vector<float> values;
  std::size_t width = 0;
  SortedRows sorted;
  for (std::uint32_t vshard = 0; vshard < kNumVshards; ++vshard) {
    GM_RETURN_IF_ERROR(older.Begin(vshard, &sorted.erased));
    GM_RETURN_IF_ERROR(reader->Scan(table, vshard, vshard + 1,
                                    [&](std::uint64_t key, std::span<const float> row, const ps::RowHeader&) {
                                      if (older.Has(key, row, &sorted.erased)) return Ok();
                                      width = row.size();
                                      keys.push_back(key);
                                      values.insert(values.end(), row.begin(), row.end());
                                      return Ok();
                                    }));
  }
  older.End(&sorted.erased);
  std::sort(sorted.erased.begin(), sorted.erased.end());
  std::vector<std::size_t> order(keys.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return keys[a] < keys[b]; });
  for (const std::size_t i : order) {
    const auto row = values.begin() + static_cast<std::ptrdiff_t>(i * width);
    const auto split = row + static_cast<std::ptrdiff_t>(dim);
    sorted.keys.push_back(keys[i]);
    sorted.rows.insert(sorted.rows.end(), row, split);
    sorted.state.insert(sorted.state.end(), split, row + static_cast<std::ptrdiff_t>(width));
  }
  return sorted;
}

// The table that an older checkpoint has under this name.
Result<OlderRows> FindOlder(ps::CheckpointReader* reader, const ps::TableSpec& spec) {
  if (reader == nullptr) return OlderRows(nullptr, 0);
  const auto& specs = reader->tables().specs;
  for (std::uint32_t t = 0; t < specs.size(); ++t) {
    if (specs[t].name != spec.name) continue;
    if (specs[t].dim == spec.dim) return OlderRows(reader, t);
    return InvalidInput("--since: table '" + spec.name + "' has " + std::to_string(specs[t].dim) + " numbers a row there, " +
                        std::to_string(spec.dim) + " here; export everything, without --since");
  }
  return OlderRows(nullptr, 0);
}

// Whoever applies what has changed would keep the rows of a table that is no more.
Status CheckNoTableIsGone(const std::vector<ps::TableSpec>& before, const std::vector<ps::TableSpec>& now) {
  for (const ps::TableSpec& spec : before) {
    const auto is_same = [&](const ps::TableSpec& other) { return other.name == spec.name; };
    if (ps::HoldsSightings(spec) || std::any_of(now.begin(), now.end(), is_same)) continue;
    return InvalidInput("--since: table '" + spec.name + "' is there, but no longer here; export everything, without --since");
  }
  return Ok();
}

// Dense parameters and batch-norm statistics, without optimizer state unless the tables come with theirs.
bool Exported(const std::string& name, bool with_state) { return with_state || !name.starts_with("optimizer/"); }

Status RunExport(const ExportArgs& args) {
  if (args.format != "safetensors") {
    return InvalidInput("--format " + args.format + " is unknown; there is: safetensors");
  }
  GM_RETURN_IF_ERROR(CheckOutputFile(args.output));
  GM_ASSIGN_OR_RETURN(const TablesView view, OpenTables(args.path));
  std::unique_ptr<ps::CheckpointReader> since;
  if (!args.since.empty()) {
    GM_ASSIGN_OR_RETURN(TablesView older, OpenTables(args.since));
    since = std::move(older.rows);
    GM_RETURN_IF_ERROR(CheckNoTableIsGone(since->tables().specs, view.rows->tables().specs));
  }
  const bool with_tables = args.tables.value_or(since != nullptr ? "all" : "none") == "all";
  if (since != nullptr && !with_tables) return InvalidInput("--since is about tables, --tables none leaves them out; give one of them");
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
    GM_ASSIGN_OR_RETURN(OlderRows older, FindOlder(since.get(), specs[t]));
    GM_ASSIGN_OR_RETURN(SortedRows sorted,
                        ReadSorted(view.rows.get(), t, static_cast<std::size_t>(specs[t].dim), std::move(older)));
    const auto n = static_cast<std::int64_t>(sorted.keys.size());
    const auto state_dim = n > 0 ? static_cast<std::int64_t>(sorted.state.size()) / n : 0;
    infos.push_back({.name = specs[t].name + ".keys", .type = TensorType::kU64, .shape = {n}});
    infos.push_back({.name = specs[t].name + ".rows", .type = TensorType::kF32, .shape = {n, specs[t].dim}});
    infos.push_back({.name = specs[t].name + ".state", .type = TensorType::kF32, .shape = {n, state_dim}});
    if (since != nullptr) {
      infos.push_back({.name = specs[t].name + ".erased", .type = TensorType::kU64,
                       .shape = {static_cast<std::int64_t>(sorted.erased.size())}});
    }
    tables.push_back(std::move(sorted));
  }
  GM_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(args.output, infos));
  std::size_t index = 0;
  for (const auto& values : dense) GM_RETURN_IF_ERROR(writer->Append(index++, values));
  std::size_t rows = 0;
  std::size_t erased = 0;
  for (const SortedRows& table : tables) {
    GM_RETURN_IF_ERROR(writer->Append(index++, std::span<const std::uint64_t>(table.keys)));
    GM_RETURN_IF_ERROR(writer->Append(index++, std::span<const float>(table.rows)));
    GM_RETURN_IF_ERROR(writer->Append(index++, std::span<const float>(table.state)));
    if (since != nullptr) GM_RETURN_IF_ERROR(writer->Append(index++, std::span<const std::uint64_t>(table.erased)));
    erased += table.erased.size();
    rows += table.keys.size();
  }
  GM_RETURN_IF_ERROR(writer->Finish());
  std::fprintf(ReportStream(args.json), "%zu tensors, %zu rows of tables in %s\n", infos.size(), rows, args.output.c_str());
  if (erased > 0) std::fprintf(ReportStream(args.json), "%zu rows of %s are gone\n", erased, args.since.c_str());
  if (args.json) {
    nlohmann::json out = {{"tensors", infos.size()}, {"rows", rows}, {"output", args.output}};
    if (since != nullptr) out["erased"] = erased;
    PrintJsonLine(out);
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
  app->add_option("--since", args->since,
                  "a run or a checkpoint: only the rows that differ from its, and TABLE.erased, the keys that only it has; all tables");
  app->add_flag("--json", args->json, "the result as one JSON object, last on standard output");
  return [args] { return RunExport(*args); };
}

}  // namespace gatemill::launcher
