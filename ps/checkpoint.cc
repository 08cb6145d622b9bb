#include "ps/checkpoint.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "common/file.h"
#include "common/keys.h"

namespace gatemill::ps {
namespace {

// 2: rows may lie in parts (ps/store), which programs of version 1 would pass over.
constexpr int kFormatVersion = 2;
constexpr int kOldestFormatVersion = 1;
constexpr const char* kTablesFile = "/tables.json";
constexpr const char* kRowsSuffix = ".rows.json";

Result<int> StateDim(const TableSpec& spec) {
  GM_ASSIGN_OR_RETURN(const auto optimizer, NewSparseOptimizer(spec.optimizer));
  return optimizer->state_dim(spec.dim);
}

nlohmann::ordered_json ToJson(const TableSpec& spec, int state_dim) {
  const SparseOptimizerConfig& optimizer = spec.optimizer;
  return {{"name", spec.name},
          {"dim", spec.dim},
          {"state_dim", state_dim},
          {"oov_rows", spec.oov_rows},
          {"dtype", NameOf(spec.dtype)},
          {"initializer", {{"type", spec.initializer.type}, {"scale", spec.initializer.scale}}},
          {"optimizer",
           {{"type", optimizer.type},
            {"lr", optimizer.lr},
            {"eps", optimizer.eps},
            {"initial_accumulator", optimizer.initial_accumulator},
            {"beta1", optimizer.beta1},
            {"beta2", optimizer.beta2},
            {"l1", optimizer.l1},
            {"l2", optimizer.l2},
            {"beta", optimizer.beta}}},
          {"admission",
           {{"min_count", spec.admission.min_count}, {"max_candidates", spec.admission.max_candidates}}},
          {"eviction",
           {{"idle_steps", spec.eviction.idle_steps},
            {"idle_days", spec.eviction.idle_days},
            {"max_rows", spec.eviction.max_rows},
            {"policy", spec.eviction.policy}}}};
}

// Throws like nlohmann::json, whose own conversion cuts fractions off and wraps around what does not fit.
template <typename T>
void ReadWhole(const nlohmann::json& json, const char* name, T* value) {
  const nlohmann::json& number = json.at(name);
  const bool fits = number.is_number_unsigned()
                        ? std::in_range<T>(number.get<std::uint64_t>())
                        : number.is_number_integer() && std::in_range<T>(number.get<std::int64_t>());
  if (!fits) throw std::out_of_range(std::string(name) + " is not a whole number that is possible");
  number.get_to(*value);
}

// Throws for what is missing or of another type.
TableSpec SpecFromJson(const nlohmann::json& json) {
  TableSpec spec;
  json.at("name").get_to(spec.name);
  ReadWhole(json, "dim", &spec.dim);
  ReadWhole(json, "oov_rows", &spec.oov_rows);
  const auto dtype = json.value("dtype", std::string("fp32"));  // older checkpoints have none
  spec.dtype = FloatTypeOf(dtype);
  if (NameOf(spec.dtype) != dtype) throw std::out_of_range("dtype \"" + dtype + "\" is unknown");
  json.at("initializer").at("type").get_to(spec.initializer.type);
  json.at("initializer").at("scale").get_to(spec.initializer.scale);
  const nlohmann::json& optimizer = json.at("optimizer");
  optimizer.at("type").get_to(spec.optimizer.type);
  optimizer.at("lr").get_to(spec.optimizer.lr);
  optimizer.at("eps").get_to(spec.optimizer.eps);
  optimizer.at("initial_accumulator").get_to(spec.optimizer.initial_accumulator);
  optimizer.at("beta1").get_to(spec.optimizer.beta1);
  optimizer.at("beta2").get_to(spec.optimizer.beta2);
  optimizer.at("l1").get_to(spec.optimizer.l1);
  optimizer.at("l2").get_to(spec.optimizer.l2);
  optimizer.at("beta").get_to(spec.optimizer.beta);
  if (json.contains("admission")) {  // older checkpoints have neither
    const nlohmann::json& admission = json.at("admission");
    ReadWhole(admission, "min_count", &spec.admission.min_count);
    ReadWhole(admission, "max_candidates", &spec.admission.max_candidates);
    const nlohmann::json& eviction = json.at("eviction");
    ReadWhole(eviction, "idle_steps", &spec.eviction.idle_steps);
    ReadWhole(eviction, "idle_days", &spec.eviction.idle_days);
    ReadWhole(eviction, "max_rows", &spec.eviction.max_rows);
    eviction.at("policy").get_to(spec.eviction.policy);
  }
  return spec;
}

Result<CheckpointTables> TablesFromJson(const nlohmann::json& json, const std::string& path) {
  int version = 0;
  ReadWhole(json, "format_version", &version);
  if (version < kOldestFormatVersion || version > kFormatVersion) {
    return InvalidInput(path + ": format version " + std::to_string(version) + ", this program reads versions " +
                        std::to_string(kOldestFormatVersion) + " to " + std::to_string(kFormatVersion) + "; use the gatemill that wrote it");
  }
  CheckpointTables tables;
  ReadWhole(json, "seed", &tables.seed);
  ReadWhole(json, "num_shards", &tables.num_shards);
  if (tables.num_shards < 1 || tables.num_shards > kNumVshards) {
    return DataLoss(path + ": num_shards = " + std::to_string(tables.num_shards) + "; use another checkpoint");
  }
  for (const nlohmann::json& table : json.at("tables")) {
    TableSpec spec = SpecFromJson(table);
    const bool possible = spec.dim >= 1 && spec.dim <= kMaxDim;
    const Result<int> state_dim = possible ? StateDim(spec) : Result<int>(InvalidInput("dim"));
    int saved_state_dim = 0;
    ReadWhole(table, "state_dim", &saved_state_dim);
    if (!state_dim.ok() || *state_dim != saved_state_dim) {
      return DataLoss(path + ": table '" + spec.name + "' is described inconsistently; use another checkpoint");
    }
    tables.specs.push_back(std::move(spec));
  }
  for (const nlohmann::json& entry : json.value("days", nlohmann::json::array())) {
    DayStart start;
    ReadWhole(entry, "day", &start.day);
    ReadWhole(entry, "first_step", &start.first_step);
    const bool ascends = tables.days.empty() || (start.day > tables.days.back().day &&
                                                 start.first_step > tables.days.back().first_step);
    if (!ascends) return DataLoss(path + ": its days do not ascend; use another checkpoint");
    tables.days.push_back(start);
  }
  return tables;
}

// Throws for what is missing or of another type.
Result<RowCounts> CountsFromJson(const nlohmann::json& json, const std::string& path) {
  RowCounts counts;
  ReadWhole(json, "first_vshard", &counts.vshards.first);
  ReadWhole(json, "end_vshard", &counts.vshards.end);
  json.at("tables").get_to(counts.tables);
  const std::uint64_t vshards = counts.vshards.end - counts.vshards.first;
  for (const std::vector<std::uint32_t>& table : counts.tables) {
    if (table.size() != vshards) return DataLoss(path + ": its tables have other vshards than it says; use another checkpoint");
  }
  return counts;
}

class ShardedReader final : public CheckpointReader {
 public:
  ShardedReader(CheckpointTables tables, std::vector<int> row_floats, std::vector<std::unique_ptr<RowStore>> stores)
      : tables_(std::move(tables)), row_floats_(std::move(row_floats)), stores_(std::move(stores)) {}

  const CheckpointTables& tables() const override { return tables_; }

  Status Scan(std::uint32_t table, std::uint32_t first_vshard, std::uint32_t end_vshard,
              const RowStore::VisitRow& visit) override {
    GM_RETURN_IF_ERROR(CheckTable(table));
    const auto checked = [&](std::uint64_t key, std::span<const float> values, const RowHeader& header) {
      GM_RETURN_IF_ERROR(CheckRow(table, key, values));
      return visit(key, values, header);
    };
    // Shards own contiguous ascending ranges of vshards, so shard after shard is vshard order.
    end_vshard = std::min(end_vshard, kNumVshards);
    std::uint32_t begin = first_vshard;
    while (begin < end_vshard) {
      const std::uint32_t shard = ShardOfVshard(begin, tables_.num_shards);
      std::uint32_t end = begin + 1;
      while (end < end_vshard && ShardOfVshard(end, tables_.num_shards) == shard) ++end;
      GM_RETURN_IF_ERROR(stores_[shard]->Scan(table, begin, end, checked));
      begin = end;
    }
    return Ok();
  }

  Result<bool> Get(std::uint32_t table, std::uint64_t key, std::vector<float>* values, RowHeader* header) override {
    GM_RETURN_IF_ERROR(CheckTable(table));
    const StoreKey store_key{.table = table, .key = key};
    bool found = false;
    Status row_status;
    GM_RETURN_IF_ERROR(stores_[ShardOf(key, tables_.num_shards)]->MultiGet(
        {&store_key, 1}, [&](std::size_t, std::span<const float> stored, const RowHeader& stored_header) {
          found = true;
          row_status = CheckRow(table, key, stored);
          values->assign(stored.begin(), stored.end());
          *header = stored_header;
        }));
    GM_RETURN_IF_ERROR(row_status);
    return found;
  }

  Result<std::uint64_t> CountRows(std::uint32_t table) override {
    std::uint64_t rows = 0;
    GM_RETURN_IF_ERROR(Scan(table, 0, kNumVshards, [&](std::uint64_t, std::span<const float>, const RowHeader&) {
      ++rows;
      return Ok();
    }));
    return rows;
  }

 private:
  [[nodiscard]] Status CheckTable(std::uint32_t table) const {
    if (table < tables_.specs.size()) return Ok();
    return InvalidInput("checkpoint: table number " + std::to_string(table) + " does not exist; it has " +
                        std::to_string(tables_.specs.size()) + " tables");
  }
  [[nodiscard]] Status CheckRow(std::uint32_t table, std::uint64_t key, std::span<const float> values) const {
    if (values.size() == static_cast<std::size_t>(row_floats_[table])) return Ok();
    return DataLoss("checkpoint: table '" + tables_.specs[table].name + "', key " + std::to_string(key) +
                    ": a row of " + std::to_string(values.size()) + " floats, expected " +
                    std::to_string(row_floats_[table]) + "; use another checkpoint");
  }

  CheckpointTables tables_;
  std::vector<int> row_floats_;                    // dim + state_dim of each table
  std::vector<std::unique_ptr<RowStore>> stores_;  // by shard
};

}  // namespace

Status WriteRowCounts(const std::string& shard_dir, const RowCounts& counts) {
  const nlohmann::ordered_json json = {
      {"first_vshard", counts.vshards.first}, {"end_vshard", counts.vshards.end}, {"tables", counts.tables}};
  return WriteFileAtomic(shard_dir + kRowsSuffix, json.dump() + "\n");
}

Result<std::optional<RowCounts>> ReadRowCounts(const std::string& ps_dir, const CheckpointTables& tables, VshardRange vshards) {
  RowCounts counts{.vshards = vshards, .tables = {}};
  counts.tables.assign(tables.specs.size(), std::vector<std::uint32_t>(vshards.end - vshards.first, 0));
  for (const RowStore::Source& source : SourcesOf(ps_dir, tables, vshards)) {
    const std::string path = source.dir + kRowsSuffix;
    if (!FileExists(path)) return std::optional<RowCounts>();
    GM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
    RowCounts part;
    try {
      GM_ASSIGN_OR_RETURN(part, CountsFromJson(nlohmann::json::parse(text), path));
    } catch (const std::exception& error) {
      return DataLoss(path + " is damaged: " + error.what() + "; use another checkpoint");
    }
    if (part.tables.size() != counts.tables.size() || part.vshards.first > source.vshards.first ||
        part.vshards.end < source.vshards.end) {
      return DataLoss(path + " is of other tables or vshards than the checkpoint; use another checkpoint");
    }
    for (std::size_t t = 0; t < part.tables.size(); ++t) {
      for (std::uint32_t vshard = source.vshards.first; vshard < source.vshards.end; ++vshard) {
        counts.tables[t][vshard - vshards.first] = part.tables[t][vshard - part.vshards.first];
      }
    }
  }
  return std::optional<RowCounts>(std::move(counts));
}

std::vector<RowStore::Source> SourcesOf(const std::string& ps_dir, const CheckpointTables& tables, VshardRange vshards) {
  std::vector<RowStore::Source> sources;
  for (std::uint32_t shard = 0; shard < tables.num_shards; ++shard) {
    const VshardRange common = {.first = std::max(vshards.first, FirstVshardOf(shard, tables.num_shards)),
                                .end = std::min(vshards.end, FirstVshardOf(shard + 1, tables.num_shards))};
    if (common.first >= common.end) continue;
    sources.push_back({.dir = ps_dir + "/" + ShardDirName(shard, tables.num_shards), .vshards = common});
  }
  return sources;
}

std::string ShardDirName(std::uint32_t shard, std::uint32_t num_shards) {
  char name[40];
  std::snprintf(name, sizeof(name), "shard-%04u-of-%04u", shard, num_shards);
  return name;
}

Status WriteCheckpointTables(const std::string& ps_dir, const CheckpointTables& tables) {
  try {
    nlohmann::ordered_json json = {{"format_version", kFormatVersion},
                                   {"seed", tables.seed},
                                   {"num_shards", tables.num_shards},
                                   {"tables", nlohmann::ordered_json::array()}};
    for (const TableSpec& spec : tables.specs) {
      GM_ASSIGN_OR_RETURN(const int state_dim, StateDim(spec));
      json["tables"].push_back(ToJson(spec, state_dim));
    }
    for (const DayStart& start : tables.days) {
      json["days"].push_back({{"day", start.day}, {"first_step", start.first_step}});
    }
    return WriteFileAtomic(ps_dir + kTablesFile, json.dump(2) + "\n");
  } catch (const nlohmann::json::exception& error) {
    return InvalidInput(ps_dir + kTablesFile + ": " + error.what() + "; table names must be UTF-8");
  }
}

Result<CheckpointTables> ReadCheckpointTables(const std::string& ps_dir) {
  const std::string path = ps_dir + kTablesFile;
  if (!FileExists(path)) {
    return InvalidInput(ps_dir +
                        " is not the ps part of a checkpoint (it has no tables.json); give a checkpoint's ps/");
  }
  GM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  try {
    return TablesFromJson(nlohmann::json::parse(text), path);
  } catch (const std::exception& error) {
    return DataLoss(path + " is damaged: " + error.what() + "; use another checkpoint");
  }
}

Result<std::unique_ptr<CheckpointReader>> CheckpointReader::Open(const std::string& ps_dir) {
  GM_ASSIGN_OR_RETURN(CheckpointTables tables, ReadCheckpointTables(ps_dir));
  std::vector<int> row_floats;
  for (const TableSpec& spec : tables.specs) {
    GM_ASSIGN_OR_RETURN(const int state_dim, StateDim(spec));
    row_floats.push_back(spec.dim + state_dim);
  }
  std::vector<std::unique_ptr<RowStore>> stores;
  for (std::uint32_t shard = 0; shard < tables.num_shards; ++shard) {
    const std::string dir = ps_dir + "/" + ShardDirName(shard, tables.num_shards);
    if (!FileExists(dir)) return DataLoss("checkpoint: " + dir + " is missing; use another checkpoint");
    auto store = OpenRowStoreReadOnly(dir);
    if (store.status().code() == Code::kInvalidInput) return DataLoss(store.status().message());  // its files are gone
    if (!store.ok()) return store.status();
    stores.push_back(std::move(store).value());
  }
  return std::unique_ptr<CheckpointReader>(
      std::make_unique<ShardedReader>(std::move(tables), std::move(row_floats), std::move(stores)));
}

}  // namespace gatemill::ps
