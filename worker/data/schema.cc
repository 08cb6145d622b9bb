#include "worker/data/schema.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "common/config_metrics.h"
#include "common/file.h"
#include "common/keys.h"
#include "worker/data/csv_source.h"
#include "worker/data/filter.h"
#include "worker/data/part_reader.h"
#include "worker/data/text.h"

namespace gatemill::data {
namespace {

bool HasWildcard(const std::string& pattern) { return pattern.find_first_of("*?[") != std::string::npos; }

class SchemaResolver {
 public:
  SchemaResolver(const Config& config, const std::vector<std::string>& columns) : config_(config), columns_(columns) {
    schema_.columns = columns;
    for (const TableConfig& table : config.tables) declared_[table.name] = &table;
  }

  Result<Schema> Run() {
    AddLabels();
    AddGroups();
    CheckParts();
    for (const FeatureConfig& entry : config_.features) AddEntry(entry);
    for (const auto& [name, table] : declared_) {
      if (!table_of_.contains(name)) Mistake(0, "table \"" + name + "\" is used by no feature; remove it");
    }
    if (config_.features.empty()) Mistake(0, "there are no features");
    CheckGateFeatures();
    if (!mistakes_.empty()) return InvalidInput(mistakes_);
    FinishTables();
    FinishOffsets();
    FinishGateColumns();
    return std::move(schema_);
  }

 private:
  void Mistake(int line, const std::string& what) {
    if (!mistakes_.empty()) mistakes_ += "\n";
    mistakes_ += config_.path + (line > 0 ? ":" + std::to_string(line) : "") + ": " + what;
  }
  [[nodiscard]] bool HasColumn(const std::string& name) const {
    return std::find(columns_.begin(), columns_.end(), name) != columns_.end();
  }
  void CheckColumn(int line, const std::string& name, const std::string& use) {
    if (!HasColumn(name)) Mistake(line, use + ": the data has no column \"" + name + "\"" + SuggestColumn(name, columns_));
  }

  // The columns that choose rows.
  void CheckParts() {
    const DataConfig& data = config_.data;
    for (const auto& [name, part] : {std::pair{"data.train.where", &data.train}, {"data.valid.where", &data.valid},
                                     {"data.test.where", &data.test}}) {
      if (part->where.empty()) continue;
      const auto filter = Filter::Parse(part->where, columns_);
      if (!filter.ok()) Mistake(0, std::string(name) + ": " + filter.status().message());
    }
    if (data.split.ratio < 1.0 && data.split.by != "row" && data.split.by != "hash") {
      CheckColumn(0, data.split.by, "data.split.by");
    }
  }

  void AddLabels() {
    schema_.tasks = config_.tasks;
    for (const TaskConfig& task : config_.tasks) {
      CheckColumn(0, task.label_name, "tasks." + task.name + ".label_name");
      taken_[task.label_name] = "the label of task \"" + task.name + "\"";
    }
    for (const TaskConfig& task : config_.tasks) {
      for (const auto& [name, column] : {std::pair{".sample_weight", &task.sample_weight},
                                         {".task_space_indicator_label", &task.task_space_indicator_label}}) {
        if (column->empty()) continue;
        CheckColumn(0, *column, "tasks." + task.name + name);
        taken_.emplace(*column, "the " + std::string(name + 1) + " of task \"" + task.name + "\"");
      }
    }
    schema_.sample_weight = config_.data.sample_weight;
    if (schema_.sample_weight.empty()) return;
    CheckColumn(0, schema_.sample_weight, "data.sample_weight");
    taken_[schema_.sample_weight] = "the sample weight";
  }

  void AddGroups() {
    schema_.groups = GroupColumns(config_.tasks);
    for (const TaskConfig& task : config_.tasks) {
      for (const MetricConfig& metric : task.metrics) {
        if (metric.by.empty()) continue;  // has no groups, or is a mistake of the configuration alone
        CheckColumn(0, metric.by, "tasks." + task.name + ".metrics, " + metric.type + ".by");
      }
    }
  }

  // The entry's columns: globs in the order of the data, names as written.
  std::vector<std::string> ColumnsOf(const FeatureConfig& entry) {
    std::vector<std::string> found;
    for (const std::string& pattern : entry.columns) {
      const std::size_t before = found.size();
      for (const std::string& column : columns_) {
        if (column == pattern || (HasWildcard(pattern) && MatchesPattern(pattern, column))) found.push_back(column);
      }
      if (found.size() > before) continue;
      if (HasWildcard(pattern)) {
        Mistake(entry.line, "no column of the data matches \"" + pattern + "\"");
      } else {
        CheckColumn(entry.line, pattern, "features");
      }
    }
    return found;
  }

  void AddEntry(const FeatureConfig& entry) {
    const std::vector<std::string> columns = ColumnsOf(entry);
    if (!entry.name.empty() && columns.size() > 1) {
      Mistake(entry.line, "name: \"" + entry.name + "\" stands for " + std::to_string(columns.size()) +
                              " columns; give each its own entry");
    }
    CheckBuckets(entry);
    for (const std::string& column : columns) {
      if (const auto taken = taken_.find(column); taken != taken_.end()) {
        Mistake(entry.line, "column \"" + column + "\" is " + taken->second +
                                " and cannot be a feature too: the model would read the answer; take it out of features");
        continue;
      }
      const std::string name = entry.name.empty() ? column : entry.name;
      if (!names_.insert(name).second) {
        Mistake(entry.line, "two features are named \"" + name + "\"; give one another name:");
        continue;
      }
      if (entry.type == FeatureType::kDense) {
        AddDense(entry, name, column);
      } else {
        AddSparse(entry, name, column);
      }
    }
  }

  void CheckBuckets(const FeatureConfig& entry) {
    const BucketizeConfig& buckets = entry.bucketize;
    if (buckets.empty()) return;
    if (!std::is_sorted(buckets.boundaries.begin(), buckets.boundaries.end(), std::less_equal<>())) {
      Mistake(entry.line, "bucketize.boundaries must ascend");
    }
    if (!entry.separator.empty()) Mistake(entry.line, "bucketize and separator exclude each other");
  }

  void AddDense(const FeatureConfig& entry, const std::string& name, const std::string& column) {
    DenseFeature feature;
    feature.name = name;
    feature.column = column;
    feature.bucketize = entry.bucketize;
    for (const std::string& step : entry.transform) {
      if (step == "none") continue;
      if (std::find(feature.transform.begin(), feature.transform.end(), step) != feature.transform.end()) {
        Mistake(entry.line, "transform: \"" + step + "\" stands twice");
      }
      if (step == "log1p" && !feature.transform.empty()) Mistake(entry.line, "transform: log1p must come first");
      feature.transform.push_back(step);
    }
    if (!entry.bucketize.empty()) {
      if (!feature.transform.empty()) {
        Mistake(entry.line, "bucketize takes the number as it is; remove transform");
      }
      feature.width = entry.bucketize.quantiles > 0 ? entry.bucketize.quantiles
                                                    : static_cast<int>(entry.bucketize.boundaries.size()) + 1;
    }
    schema_.dense.push_back(std::move(feature));
  }

  void AddSparse(const FeatureConfig& entry, const std::string& name, const std::string& column) {
    SparseFeature feature;
    feature.name = name;
    feature.column = column;
    feature.separator = entry.separator;
    feature.pooling = entry.pooling;
    feature.max_length = entry.max_length;
    feature.bucketize = entry.bucketize;
    feature.table = TableOf(entry, entry.table.empty() ? name : entry.table);
    feature.salt = TableSalt(schema_.tables[feature.table].name);
    schema_.sparse.push_back(std::move(feature));
  }

  std::uint32_t TableOf(const FeatureConfig& entry, const std::string& name) {
    const auto [found, added] = table_of_.emplace(name, static_cast<std::uint32_t>(schema_.tables.size()));
    if (added) NewTable(entry, name);
    Table& table = schema_.tables[found->second];
    const TableConfig& spec = table_configs_[found->second];
    if (entry.embedding_dim != 0 && entry.embedding_dim != table.dim) {
      Mistake(entry.line, "table \"" + name + "\" has embedding_dim " + std::to_string(table.dim) + ", this feature says " +
                              std::to_string(entry.embedding_dim) + "; features that share a table share its dim");
    }
    CheckOwn(entry, name, "hash_buckets", entry.hash_buckets, spec.hash_buckets);
    CheckOwn(entry, name, "oov_buckets", entry.oov_buckets, spec.oov_buckets);
    return found->second;
  }

  void CheckOwn(const FeatureConfig& entry, const std::string& table, const std::string& key, std::int64_t said,
                std::int64_t has) {
    if (said == 0 || said == has) return;
    Mistake(entry.line, "table \"" + table + "\" has " + key + " " + std::to_string(has) + ", this feature says " +
                            std::to_string(said) + "; say it once, under tables");
  }

  void NewTable(const FeatureConfig& entry, const std::string& name) {
    TableConfig spec;
    if (const auto declared = declared_.find(name); declared != declared_.end()) {
      spec = *declared->second;
    }
    if (spec.hash_buckets == 0) spec.hash_buckets = entry.hash_buckets;
    if (spec.oov_buckets == 0) spec.oov_buckets = entry.oov_buckets;
    if (name.ends_with(ps::OovTableName("")) || ps::HoldsSightings({.name = name})) {
      Mistake(entry.line, "table \"" + name + "\": names that end so are of companion tables; name it otherwise");
    }
    if (spec.embedding_dim == 0) spec.embedding_dim = entry.embedding_dim;
    if (spec.embedding_dim == 0) {
      Mistake(entry.line, "table \"" + name + "\" has no embedding_dim; give it to the feature or the table");
    } else if (spec.embedding_dim < 0 || spec.embedding_dim > ps::kMaxDim) {
      Mistake(entry.line, "embedding_dim " + std::to_string(spec.embedding_dim) + " is not in 1 to " +
                              std::to_string(ps::kMaxDim));
    }
    Table table;
    table.name = name;
    table.dim = spec.embedding_dim;
    table.hash_buckets = static_cast<std::uint64_t>(spec.hash_buckets);
    table.oov_buckets = static_cast<std::uint32_t>(spec.oov_buckets);
    table.admits = spec.admission.min_count > 1;
    table.oov_ratio = spec.oov_buckets > 0 && !table.admits ? spec.oov_ratio : 0.0;
    schema_.tables.push_back(std::move(table));
    table_configs_.push_back(std::move(spec));
  }

  void FinishTables() {
    for (std::size_t i = 0; i < schema_.tables.size(); ++i) {
      const Table& table = schema_.tables[i];
      schema_.server_tables.push_back({table.name, table.dim, table_configs_[i].initializer,
                                       table_configs_[i].optimizer.value_or(config_.train.sparse_optimizer),
                                       table.oov_buckets, ps::FloatTypeOf(table_configs_[i].dtype),
                                       table_configs_[i].admission, table_configs_[i].eviction});
    }
    for (std::size_t i = 0; i < schema_.tables.size(); ++i) {
      Table& table = schema_.tables[i];
      if (table.oov_buckets == 0) continue;
      ps::TableSpec companion = schema_.server_tables[i];
      companion.name = ps::OovTableName(table.name);
      companion.oov_rows = 0;
      companion.admission = {};
      companion.eviction = {};
      table.oov_table = static_cast<std::uint32_t>(schema_.server_tables.size());
      schema_.server_tables.push_back(std::move(companion));
    }
    for (std::size_t i = 0; i < schema_.tables.size(); ++i) {
      if (schema_.tables[i].admits) schema_.server_tables.push_back(ps::SightingsTable(schema_.server_tables[i]));
    }
  }

  void FinishOffsets() {
    for (SparseFeature& feature : schema_.sparse) {
      feature.dim = schema_.tables[feature.table].dim;
      feature.x_offset = schema_.sparse_dim;
      schema_.sparse_dim += feature.dim;
    }
    for (DenseFeature& feature : schema_.dense) {
      feature.x_offset = schema_.sparse_dim + schema_.dense_dim;
      schema_.dense_dim += feature.width;
    }
  }

  [[nodiscard]] bool GateReads(const std::string& feature) const {
    return std::any_of(config_.model.gate_features.begin(), config_.model.gate_features.end(),
                       [&](const std::string& pattern) { return feature == pattern || MatchesPattern(pattern, feature); });
  }

  void CheckGateFeatures() {
    const std::vector<std::string> names(names_.begin(), names_.end());
    for (const std::string& pattern : config_.model.gate_features) {
      const bool found = std::any_of(names.begin(), names.end(),
                                     [&](const std::string& name) { return name == pattern || MatchesPattern(pattern, name); });
      if (!found) Mistake(0, "model.gate_features: there is no feature \"" + pattern + "\"" + SuggestColumn(pattern, names));
    }
  }

  void FinishGateColumns() {
    const auto add = [&](int offset, int width) {
      std::vector<XRange>& ranges = schema_.gate_columns;
      if (!ranges.empty() && ranges.back().offset + ranges.back().width == offset) {
        ranges.back().width += width;
      } else {
        ranges.push_back({offset, width});
      }
    };
    for (const SparseFeature& feature : schema_.sparse) {
      if (GateReads(feature.name)) add(feature.x_offset, feature.dim);
    }
    for (const DenseFeature& feature : schema_.dense) {
      if (GateReads(feature.name)) add(feature.x_offset, feature.width);
    }
  }

  const Config& config_;
  const std::vector<std::string>& columns_;
  Schema schema_;
  std::map<std::string, const TableConfig*> declared_;
  std::map<std::string, std::uint32_t> table_of_;  // by name, position in schema_.tables
  std::vector<TableConfig> table_configs_;         // of schema_.tables, as resolved
  std::map<std::string, std::string> taken_;       // columns that are no features, and what they are
  std::set<std::string> names_;                    // of features
  std::string mistakes_;
};

}  // namespace

Result<Schema> ResolveSchema(const Config& config, const std::vector<std::string>& columns) {
  return SchemaResolver(config, columns).Run();
}

Result<std::vector<std::string>> ReadColumnNames(const DataConfig& data) {
  GM_ASSIGN_OR_RETURN(const std::vector<std::string> files, ExpandFiles(data, data.train, "data.train"));
  return ReadHeader(files[0], CsvOptionsFor(data, files[0]));
}

}  // namespace gatemill::data
