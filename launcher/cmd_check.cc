// gatemill check CONFIG: what would be trained, and every mistake in it at once. gatemill check CHECKPOINT: is it
// whole?

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/config.h"
#include "common/config_metrics.h"
#include "common/file.h"
#include "launcher/command.h"
#include "launcher/model_spec.h"
#include "launcher/output.h"
#include "launcher/session.h"
#include "ps/table/optimizer.h"
#include "worker/data/part_reader.h"
#include "worker/data/profile.h"
#include "worker/data/schema.h"
#include "worker/model/dense_model.h"
#include "worker/train/checkpoint.h"

namespace gatemill::launcher {
namespace {

using nlohmann::json;

// Beside its numbers a row in memory has a key, a header and its share of the index.
constexpr std::int64_t kRowOverheadBytes = 32;

struct CheckArgs {
  std::string path;
  std::vector<std::string> overrides;
  bool data = false;
  bool full = false;
  bool json = false;
};

std::string BytesText(double bytes) {
  static constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024.0 && unit + 1 < std::size(kUnits); ++unit) bytes /= 1024.0;
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.1f %s", bytes, kUnits[unit]);
  return text;
}

std::string WithCommas(std::int64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, ",");
  return text;
}

std::string ShapeText(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) text += (text.empty() ? "" : " x ") + std::to_string(size);
  return text;
}

// The lines of `message` that only the data can tell: what the configuration alone shows is in its own mistakes.
std::string ColumnMistakes(const std::string& message) {
  std::string kept;
  for (std::size_t begin = 0; begin < message.size();) {
    const std::size_t end = std::min(message.find('\n', begin), message.size());
    const std::string line = message.substr(begin, end - begin);
    if (line.find("no column") != std::string::npos) kept += "\n" + line;
    begin = end + 1;
  }
  return kept;
}

// Everything that is known before training starts.
struct Plan {
  Config config;
  data::Schema schema;
  std::vector<model::Parameter> parameters;
  std::int64_t numbers = 0;  // in all parameters
};

Result<Plan> MakePlan(const CheckArgs& args) {
  ConfigReading reading = ReadConfig(args.path, args.overrides);
  if (!reading.readable) return reading.status;
  std::string mistakes = reading.status.message();
  const auto add = [&](const std::string& text) {
    if (!text.empty()) mistakes += (mistakes.empty() || text[0] == '\n' ? "" : "\n") + text;
  };
  Plan plan;
  if (!reading.config.data.train.empty()) {
    const Result<std::vector<std::string>> columns = data::ReadColumnNames(reading.config.data);
    if (!columns.ok()) {
      add(columns.status().message());
    } else {
      Result<data::Schema> schema = data::ResolveSchema(reading.config, *columns);
      if (!schema.ok()) {
        add(reading.status.ok() ? schema.status().message() : ColumnMistakes(schema.status().message()));
      } else {
        plan.schema = std::move(*schema);
      }
    }
  }
  for (const auto& [part, name] :
       {std::pair{&reading.config.data.valid, "data.valid"}, {&reading.config.data.test, "data.test"}}) {
    if (part->empty()) continue;
    const Result<std::vector<std::string>> files = data::ExpandFiles(reading.config.data, *part, name);
    if (!files.ok()) add(files.status().message());
  }
  if (!mistakes.empty()) return InvalidInput(mistakes);
  plan.config = std::move(reading.config);
  GM_RETURN_IF_ERROR(CheckServers(plan.config, plan.schema).Annotate(args.path));
  plan.parameters = model::DescribeParameters(SpecOf(plan.config, plan.schema));
  for (const model::Parameter& parameter : plan.parameters) {
    std::int64_t size = 1;
    for (const std::int64_t side : parameter.shape) size *= side;
    plan.numbers += size;
  }
  if (plan.numbers == 0)
    return InvalidInput(args.path + ": model: these sizes make no model; use fewer or smaller layers");
  return plan;
}

// ---- what it says ---------------------------------------------------------------------------------------------------

// State floats that the dense optimizer keeps for each parameter.
int DenseStateDim(const DenseOptimizerConfig& optimizer) {
  if (optimizer.type == "adam" || optimizer.type == "adamw") return 2;
  return optimizer.type == "adagrad" || optimizer.momentum > 0.0 ? 1 : 0;
}

Result<json> DataJson(const Config& config) {
  json files = json::array();
  const std::pair<const PartConfig*, std::string> parts[] = {
      {&config.data.train, "train"}, {&config.data.valid, "valid"}, {&config.data.test, "test"}};
  for (const auto& [part, name] : parts) {
    if (part->empty()) continue;
    GM_ASSIGN_OR_RETURN(const std::vector<std::string> paths, data::ExpandFiles(config.data, *part, "data." + name));
    for (const std::string& path : paths) {
      GM_ASSIGN_OR_RETURN(const std::uint64_t bytes, FileSize(path));
      files.push_back({{"part", name}, {"path", path}, {"bytes", bytes}, {"where", part->where}});
    }
  }
  return files;
}

json FeaturesJson(const data::Schema& schema) {
  json features = json::array();
  for (const data::SparseFeature& feature : schema.sparse) {
    const std::string kind = !feature.bucketize.empty() ? "bucket" : feature.separator.empty() ? "id" : "list";
    features.push_back({{"name", feature.name},
                        {"column", feature.column},
                        {"kind", kind},
                        {"table", schema.tables[feature.table].name},
                        {"dim", feature.dim},
                        {"x", feature.x_offset}});
  }
  for (const data::DenseFeature& feature : schema.dense) {
    features.push_back({{"name", feature.name},
                        {"column", feature.column},
                        {"kind", feature.bucketize.empty() ? "number" : "one-hot"},
                        {"table", nullptr},
                        {"dim", feature.width},
                        {"x", feature.x_offset}});
  }
  return features;
}

std::int64_t BytesPerRow(const ps::TableSpec& spec, int state_dim) {
  const auto number_bytes = static_cast<std::int64_t>(ps::BytesOf(spec.dtype));
  return number_bytes * spec.dim + std::int64_t{4} * state_dim + kRowOverheadBytes;
}

// When keys get and lose their rows, in words; "" for a table whose rows all stay.
std::string LimitsText(const ps::TableSpec& spec) {
  std::string text;
  const auto add = [&](std::int64_t limit, const char* before, const char* after) {
    if (limit > 0) text += (text.empty() ? "" : "; ") + std::string(before) + std::to_string(limit) + after;
  };
  if (spec.admission.min_count > 1) add(spec.admission.min_count, "after ", " steps");
  add(spec.eviction.idle_steps, "idle ", " steps");
  add(spec.eviction.idle_days, "idle ", " days");
  add(spec.eviction.max_rows, "at most ", (" rows, " + spec.eviction.policy).c_str());
  return text;
}

Result<json> TablesJson(const data::Schema& schema) {
  json tables = json::array();
  for (std::size_t t = 0; t < schema.tables.size(); ++t) {
    const ps::TableSpec& spec = schema.server_tables[t];
    GM_ASSIGN_OR_RETURN(const auto optimizer, ps::NewSparseOptimizer(spec.optimizer));
    const int state_dim = optimizer->state_dim(spec.dim);
    tables.push_back({{"name", spec.name},
                      {"dim", spec.dim},
                      {"dtype", ps::NameOf(spec.dtype)},
                      {"optimizer", spec.optimizer.type},
                      {"state_dim", state_dim},
                      {"bytes_per_row", BytesPerRow(spec, state_dim)},
                      {"hash_buckets", schema.tables[t].hash_buckets},
                      {"oov_buckets", schema.tables[t].oov_buckets},
                      {"limits", LimitsText(spec)}});
  }
  return tables;
}

json MemoryJson(const Plan& plan, const json& tables) {
  const std::int64_t dense = plan.numbers * 4 * (std::int64_t{2} + DenseStateDim(plan.config.train.dense_optimizer));
  const std::int64_t batch = std::int64_t{8} * plan.config.train.global_batch_size * plan.schema.x_dim();
  std::int64_t lowest = 0;
  std::int64_t highest = 0;
  for (const json& table : tables) {
    const auto bytes = table["bytes_per_row"].get<std::int64_t>();
    lowest = lowest == 0 ? bytes : std::min(lowest, bytes);
    highest = std::max(highest, bytes);
  }
  return {{"dense_bytes", dense}, {"batch_bytes", batch}, {"row_bytes", {lowest, highest}}};
}

// "bce", "mse + huber".
std::string LossNames(const TaskConfig& task) {
  std::string names;
  for (const LossConfig& loss : task.loss) names += (names.empty() ? "" : " + ") + loss.type;
  return names;
}

Result<json> PlanJson(const CheckArgs& args, const Plan& plan) {
  GM_ASSIGN_OR_RETURN(json files, DataJson(plan.config));
  GM_ASSIGN_OR_RETURN(json tables, TablesJson(plan.schema));
  json shapes = json::array();
  for (const model::Parameter& parameter : plan.parameters) {
    shapes.push_back({{"name", parameter.name}, {"shape", parameter.shape}});
  }
  json tasks = json::array();
  for (const TaskConfig& task : plan.config.tasks) {
    tasks.push_back({{"name", task.name}, {"label", task.label_name}, {"loss", LossNames(task)}, {"metrics", MetricNames(task.metrics)}});
  }
  json memory = MemoryJson(plan, tables);
  return json{{"config", args.path},
              {"model", plan.config.model.type},
              {"tasks", std::move(tasks)},
              {"data", std::move(files)},
              {"features", FeaturesJson(plan.schema)},
              {"tables", std::move(tables)},
              {"x_dim", plan.schema.x_dim()},
              {"parameters", plan.numbers},
              {"shapes", std::move(shapes)},
              {"memory", std::move(memory)},
              {"ps",
               {{"transport", plan.config.ps.transport},
                {"wire", plan.config.ps.wire},
                {"threads", plan.config.ps.threads},
                {"memory_budget", plan.config.ps.memory_budget},
                {"dir", plan.config.ps.dir}}},
              {"warnings", json::array()}};
}

using Rows = std::vector<std::vector<std::string>>;

// One cell of a table of text: text as it is, null as nothing.
std::string CellText(const json& value) {
  if (value.is_null()) return "";
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string TableText(const json& items, const std::vector<std::string>& keys) {
  Rows rows{keys};
  for (const json& item : items) {
    std::vector<std::string> row;
    row.reserve(keys.size());
    for (const std::string& key : keys) {
      row.push_back(key == "bytes" ? BytesText(item[key].get<double>()) : CellText(item[key]));
    }
    rows.push_back(std::move(row));
  }
  return FormatTable(rows) + "\n";
}

// The experts are alike, so one line stands for all of them.
std::string ShapesText(const std::vector<model::Parameter>& parameters) {
  static constexpr std::string_view kExperts = "experts.";
  Rows rows{{"parameter", "shape", "times"}};
  std::map<std::string, std::size_t> row_of;
  for (const model::Parameter& parameter : parameters) {
    std::string name = parameter.name;
    if (name.starts_with(kExperts)) {
      name.replace(kExperts.size(), name.find('.', kExperts.size()) - kExperts.size(), "*");
    }
    const auto [row, is_new] = row_of.emplace(name, rows.size());
    if (is_new) {
      rows.push_back({name, ShapeText(parameter.shape), "1"});
    } else {
      rows[row->second][2] = std::to_string(std::stoi(rows[row->second][2]) + 1);
    }
  }
  return FormatTable(rows);
}

std::string ServersText(const PsConfig& ps) {
  std::string text = "parameter servers: ";
  text += ps.threads == 1 ? "a thread each" : std::to_string(ps.threads) + " threads each";
  text += ", transport " + ps.transport + ", " + ps.wire + " on the wire; ";
  text += ps.memory_budget == 0 ? "all rows in memory, "
                                : "at most " + BytesText(static_cast<double>(ps.memory_budget)) +
                                      " of memory each for rows, caches and buffers, further rows in ";
  return text + "RocksDB's files in " + (ps.dir.empty() ? "ps-RANK/ of the run" : ps.dir) + "\n";
}

std::string PlanText(const Plan& plan, const json& said) {
  std::string text = said["config"].get<std::string>() + ": " + plan.config.model.type + ", " +
                     std::to_string(plan.config.tasks.size()) + " tasks, " + std::to_string(said["features"].size()) +
                     " features, " + std::to_string(said["tables"].size()) + " tables\n\n";
  text += TableText(said["data"], {"part", "bytes", "where", "path"});
  text += TableText(said["features"], {"name", "column", "kind", "table", "dim", "x"});
  text += TableText(said["tables"], {"name", "dim", "dtype", "optimizer", "bytes_per_row", "hash_buckets", "oov_buckets", "limits"});
  Rows tasks{{"task", "label", "loss", "metrics"}};
  for (const TaskConfig& task : plan.config.tasks) {
    std::string metrics;
    for (const std::string& metric : MetricNames(task.metrics)) metrics += (metrics.empty() ? "" : ", ") + metric;
    tasks.push_back({task.name, task.label_name, LossNames(task), metrics});
  }
  text += FormatTable(tasks) + "\n";
  text += ShapesText(plan.parameters) + "\n";
  const json& memory = said["memory"];
  text += "x: " + std::to_string(plan.schema.x_dim()) + " columns, " + std::to_string(plan.schema.sparse_dim) +
          " of embeddings and " + std::to_string(plan.schema.dense_dim) + " of numbers\n";
  text += "dense parameters: " + WithCommas(plan.numbers) + "\n";
  text += "memory: " + BytesText(memory["dense_bytes"]) + " for the dense part with gradients and optimizer, " +
          BytesText(memory["batch_bytes"]) + " for x and its gradient over a global batch, " +
          memory["row_bytes"][0].dump() + " to " + memory["row_bytes"][1].dump() + " bytes a row of a table\n";
  return text + ServersText(plan.config.ps);
}

// ---- --data ---------------------------------------------------------------------------------------------------------

// What a sample of the training part shows: mistakes end in kInvalidInput, the rest are warnings.
class DataCheck {
 public:
  explicit DataCheck(const Plan& plan) : plan_(plan) {
    for (const data::SparseFeature& feature : plan.schema.sparse) features_.insert(feature.column);
    for (const data::DenseFeature& feature : plan.schema.dense) features_.insert(feature.column);
  }

  Status Run() {
    const DataConfig& data = plan_.config.data;
    GM_ASSIGN_OR_RETURN(profile_, data::ProfileData(data, data.train, data::kProfileRows));
    CheckNumbers();
    CheckLabels();
    if (!mistakes_.empty()) return InvalidInput(mistakes_);
    WarnOfUseless();
    return WarnOfLeaks();
  }
  [[nodiscard]] const std::vector<std::string>& warnings() const { return warnings_; }
  [[nodiscard]] const json& leaks() const { return leaks_; }

 private:
  void Mistake(const std::string& what) {
    mistakes_ += (mistakes_.empty() ? "" : "\n") + plan_.config.path + ": " + what;
  }
  [[nodiscard]] const data::ColumnProfile* Find(const std::string& column) const {
    for (const data::ColumnProfile& profile : profile_.columns) {
      if (profile.name == column) return &profile;
    }
    return nullptr;
  }
  static bool IsText(const data::ColumnProfile* profile) {
    return profile != nullptr && !profile->numeric && profile->distinct > 0;
  }

  void CheckNumbers() {
    for (const data::DenseFeature& feature : plan_.schema.dense) {
      const data::ColumnProfile* profile = Find(feature.column);
      if (IsText(profile)) {
        Mistake("feature " + feature.name + " is dense, but column " + feature.column + " has text such as \"" +
                profile->examples.front() + "\"; make it sparse, or add the text to data.missing");
      }
    }
  }

  void CheckLabels() {
    for (const TaskConfig& task : plan_.config.tasks) {
      const data::ColumnProfile* profile = Find(task.label_name);
      if (profile == nullptr) continue;
      const std::string label = "label " + task.label_name + " of task " + task.name;
      if (IsText(profile)) {
        Mistake(label + " has text such as \"" + profile->examples.front() + "\"; a label is a number");
      } else if (profile->missing_share > 0.0) {
        Mistake(label + " is missing in some rows; keep the others with `where`");
      } else if (task.is_binary() && (profile->min < 0.0 || profile->max > 1.0 || profile->distinct > 2)) {
        Mistake(label + " has values other than 0 and 1; use a loss of values such as mse, or another column");
      } else if ((task.loss[0].type == "watch_time" || task.label_transform == "log1p") && profile->min < 0.0) {
        Mistake(label + " has values below 0, for which its loss or label_transform has no meaning");
      } else if (profile->distinct == 1) {
        warnings_.push_back(label + " has one value in the sample: nothing to learn from it, and its AUC is undefined");
      }
    }
  }

  void WarnOfUseless() {
    for (const data::ColumnProfile& profile : profile_.columns) {
      if (!features_.contains(profile.name)) continue;
      if (profile.kind == data::ColumnKind::kConstant) {
        warnings_.push_back("column " + profile.name + " has one value in the sample: it tells nothing");
      } else if (profile.kind == data::ColumnKind::kUnique) {
        warnings_.push_back("column " + profile.name + " hardly ever repeats: nothing is learned about its values");
      }
    }
  }

  Status WarnOfLeaks() {
    const DataConfig& data = plan_.config.data;
    std::vector<std::string> labels;
    for (const TaskConfig& task : plan_.config.tasks) {
      if (std::find(labels.begin(), labels.end(), task.label_name) == labels.end()) labels.push_back(task.label_name);
    }
    std::vector<std::string> columns;
    for (const std::string& column : plan_.schema.columns) {
      if (std::find(labels.begin(), labels.end(), column) == labels.end() && column != data.sample_weight) {
        columns.push_back(column);
      }
    }
    GM_ASSIGN_OR_RETURN(const auto scores, data::ScoreColumns(data, data.train, labels, columns, data::kProfileRows));
    for (const data::ColumnScore& score : scores) {
      if (score.leaks) AddLeak(score);
    }
    return Ok();
  }

  void AddLeak(const data::ColumnScore& score) {
    const bool is_feature = features_.contains(score.column);
    char auc[16];
    std::snprintf(auc, sizeof(auc), "%.3f", score.auc);
    leaks_.push_back({{"label", score.label}, {"column", score.column}, {"auc", score.auc}, {"feature", is_feature}});
    warnings_.push_back("column " + score.column + " predicts " + score.label + " almost alone (AUC " + auc + "): " +
                        (is_feature ? "it seems to be known only after the label; take it out of features"
                                    : "it is no feature, and should stay none"));
  }

  const Plan& plan_;
  std::set<std::string> features_;  // columns
  data::DataProfile profile_;
  std::string mistakes_;
  std::vector<std::string> warnings_;
  json leaks_ = json::array();
};

Status CheckConfiguration(const CheckArgs& args) {
  GM_ASSIGN_OR_RETURN(const Plan plan, MakePlan(args));
  GM_ASSIGN_OR_RETURN(json said, PlanJson(args, plan));
  if (!args.json) std::fprintf(ReportStream(args.json), "%s", PlanText(plan, said).c_str());
  if (args.data) {
    DataCheck check(plan);
    GM_RETURN_IF_ERROR(check.Run());
    for (const std::string& warning : check.warnings()) std::fprintf(stderr, "warning: %s\n", warning.c_str());
    said["warnings"] = check.warnings();
    said["leaks"] = check.leaks();
  }
  if (args.json) PrintJsonLine(said);
  return Ok();
}

Status CheckSaved(const CheckArgs& args) {
  GM_ASSIGN_OR_RETURN(const std::string dir, train::ResolveCheckpoint(args.path));
  const Status whole = train::CheckCheckpoint(dir, args.full);
  if (args.full && whole.code() == Code::kDataLoss) (void)train::MarkDamaged(dir, whole.message());  // no resume tries it again
  GM_RETURN_IF_ERROR(whole);
  if (args.full) GM_RETURN_IF_ERROR(train::RemoveDamagedMark(dir));
  std::fprintf(ReportStream(args.json), "%s\n",
               (dir + (args.full ? " is whole: every file has its size and checksum"
                                 : " has all its files, with their sizes; every checksum is right but those of the tables' rows, which "
                                   "--full reads, too")).c_str());
  if (args.json) PrintJsonLine(json{{"checkpoint", dir}, {"whole", true}, {"full", args.full}});
  return Ok();
}

Status RunCheck(const CheckArgs& args) {
  std::error_code error;
  if (!std::filesystem::is_directory(args.path, error)) {
    if (args.full) return InvalidInput(args.path + " is a configuration; --full is for a run or a checkpoint");
    return CheckConfiguration(args);
  }
  if (args.data || !args.overrides.empty()) {
    return InvalidInput(args.path + " is a run or a checkpoint; --data and --set are for a configuration");
  }
  return CheckSaved(args);
}

}  // namespace

RunCommand AddCheck(CLI::App* app) {
  auto args = std::make_shared<CheckArgs>();
  app->add_option("path", args->path, "a configuration; or a run directory or checkpoint to verify")->required();
  app->add_flag("--full", args->full, "of a checkpoint: read everything, the rows of all tables, too; damage is marked, so that no resume uses it");
  app->add_flag("--data", args->data, "also read a sample of the training part and warn of columns that leak a label");
  app->add_option("--set", args->overrides, "replace a value of the configuration: a.b=v")->allow_extra_args(false);
  app->add_flag("--json", args->json, "the result as one JSON object, last on standard output");
  return [args] { return RunCheck(*args); };
}

}  // namespace gatemill::launcher
