#include "common/config_check.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "common/config_environment.h"
#include "common/config_metrics.h"
#include "common/config_schema.h"
#include "common/file.h"
#include "common/suggest.h"

namespace gatemill {
namespace {

bool IsGlob(const std::string& text) { return text.find_first_of("*?[") != std::string::npos; }

template <class Strings>
std::string Join(const Strings& texts) {
  std::string out;
  for (const std::string& text : texts) out += (out.empty() ? "" : ", ") + text;
  return out;
}

class Checker {
 public:
  Checker(const Config& config, const Locate& locate, Mistakes* mistakes)
      : config_(config), locate_(locate), mistakes_(mistakes) {}

  void Run() {
    CheckData();
    CheckFeatures();
    CheckTables();
    CheckModel();
    CheckTasks();
    CheckTrain();
    CheckPs();
  }

 private:
  struct TableUse {
    int dim = 0;      // what a feature claimed, 0 = nothing yet
    int line = 0;     // of that feature
    std::string key;  // of a feature that uses the table
  };

  void Wrong(const std::string& key, const std::string& what) { mistakes_->AddUnlessFailed(locate_(key), key, what); }
  void Require(bool holds, const std::string& key, const std::string& what) {
    if (!holds) Wrong(key, what);
  }
  // Reports the texts that stand in a list twice.
  void CheckDistinct(const std::vector<std::string>& texts, const std::string& key) {
    std::set<std::string> seen;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (!seen.insert(texts[i]).second)
        Wrong(JoinKey(key, std::to_string(i)), texts[i] + " stands here twice; keep one");
    }
  }

  // ---- data ---------------------------------------------------------------------------------------------------------
  void CheckData() {
    const DataConfig& data = config_.data;
    Require(!data.train.empty() || !data.train.where.empty(), "data.train", "is missing; name the files to train on");
    CheckEnvironment(data.root, "data.root");
    CheckPart(data.train, "data.train");
    CheckPart(data.valid, "data.valid");
    CheckPart(data.test, "data.test");
    Require(data.header || !data.column_names.empty(), "data.header",
            "false needs data.column_names, the names of the file's columns in order");
    Require(data.header || data.sample_weight.empty() || Has(data.column_names, data.sample_weight),
            "data.sample_weight", data.sample_weight + " is not among data.column_names");
    CheckDistinct(data.column_names, "data.column_names");
    const bool rest_is_valid = data.split.rest == "valid";
    Require(data.split.ratio == 1.0 || (rest_is_valid ? data.valid : data.test).empty(), "data.split",
            "and data." + data.split.rest + " contradict each other; keep the one to " +
                (rest_is_valid ? "validate on" : "test on"));
  }

  void CheckPart(const PartConfig& part, const std::string& key) {
    Require(part.where.empty() || !part.empty(), key, "has `where` but no files; name the files");
    for (const std::string& file : part.files) {
      Require(!file.empty(), key, "has an empty file name; remove it");
      CheckEnvironment(file, key);
    }
  }

  void CheckEnvironment(const std::string& text, const std::string& key) {
    const Result<std::string> replaced = ReplaceEnvironment(text);
    if (!replaced.ok()) Wrong(key, replaced.status().message());
  }

  static bool Has(const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  }

  // ---- features -----------------------------------------------------------------------------------------------------
  void CheckFeatures() {
    Require(!config_.features.empty(), "features", "is missing; list what the model sees");
    for (std::size_t i = 0; i < config_.features.size(); ++i) {
      const std::string key = JoinKey("features", std::to_string(i));
      const FeatureConfig& feature = config_.features[i];
      CheckColumns(feature, key);
      CheckBucketize(feature, key);
      CheckDistinct(feature.transform, key + ".transform");
      const auto log1p = std::find(feature.transform.begin(), feature.transform.end(), "log1p");
      Require(log1p == feature.transform.end() || log1p == feature.transform.begin(), key + ".transform",
              "log1p must come first: it is for the numbers as they are in the data");
      if (feature.type == FeatureType::kSparse) CheckTableUse(feature, key);
    }
  }

  void CheckColumns(const FeatureConfig& feature, const std::string& key) {
    Require(!feature.columns.empty(), key + ".columns", "is missing; name the column or columns");
    const bool is_one = feature.columns.size() == 1 && !IsGlob(feature.columns[0]);
    Require(feature.name.empty() || is_one, key + ".name",
            "one name cannot stand for many columns; give the column an entry of its own");
    for (const std::string& column : feature.columns) {
      Require(!column.empty(), key + ".columns", "has an empty name; remove it");
      for (const TaskConfig& task : config_.tasks) {
        Require(
            task.label_name.empty() || !MatchesPattern(column, task.label_name), key + ".columns",
            column + " takes in " + task.label_name + ", the label of task " + task.name + "; a label is no feature");
      }
      const std::string& weight = config_.data.sample_weight;
      Require(weight.empty() || !MatchesPattern(column, weight), key + ".columns", TakesInWeight(column, weight));
      if (IsGlob(column)) continue;
      const std::string& name = feature.name.empty() || !is_one ? column : feature.name;
      const auto [first, is_new] = feature_lines_.emplace(name, feature.line);
      Require(is_new, key + ".columns",
              "there is already a feature " + name + " (line " + std::to_string(first->second) +
                  "); remove one, or give it a `name:`");
    }
  }

  void CheckBucketize(const FeatureConfig& feature, const std::string& key) {
    const BucketizeConfig& bucketize = feature.bucketize;
    const std::vector<double>& boundaries = bucketize.boundaries;
    Require(boundaries.empty() || bucketize.quantiles == 0, key + ".bucketize",
            "has boundaries and quantiles; keep one of them");
    Require(bucketize.quantiles != 1, key + ".bucketize", "one quantile is one bucket; ask for 2 or more");
    Require(boundaries.size() < static_cast<std::size_t>(kMaxBuckets), key + ".bucketize",
            "has more than " + std::to_string(kMaxBuckets) + " buckets");
    Require(std::is_sorted(boundaries.begin(), boundaries.end(), std::less_equal<>()) || boundaries.size() < 2,
            key + ".bucketize", "boundaries must ascend, each once");
    Require(bucketize.empty() || feature.separator.empty(), key + ".bucketize",
            "is for a single number, not for a list");
    Require(bucketize.empty() || feature.transform.empty(), key + ".bucketize",
            "makes a one-hot of the number, so that `transform` has no effect; keep one of them");
  }

  static std::string TakesInWeight(const std::string& column, const std::string& weight) {
    return column + " takes in " + weight + ", the sample weight; a weight is no feature";
  }

  // What an entry says about the tables its columns read.
  void CheckTableUse(const FeatureConfig& feature, const std::string& key) {
    std::vector<std::string> tables;
    if (!feature.table.empty()) {
      tables.push_back(feature.table);
    } else {
      for (const std::string& column : feature.columns) {
        if (!IsGlob(column)) tables.push_back(feature.name.empty() ? column : feature.name);
      }
    }
    for (const std::string& pattern : feature.columns) {
      if (feature.table.empty() && IsGlob(pattern)) globs_.push_back(pattern);
    }
    for (const std::string& name : tables) {
      const TableConfig* table = FindTable(name);
      if (feature.embedding_dim > 0) ClaimDim(feature, name, table, key);
      uses_[name].key = key;
      if (table != nullptr && feature.table.empty()) {
        Require(feature.hash_buckets == 0 || table->hash_buckets == 0 || feature.hash_buckets == table->hash_buckets,
                key + ".hash_buckets",
                Differs("hash_buckets", name, feature.hash_buckets, table->hash_buckets));
        Require(feature.oov_buckets == 0 || table->oov_buckets == 0 || feature.oov_buckets == table->oov_buckets,
                key + ".oov_buckets",
                Differs("oov_buckets", name, feature.oov_buckets, table->oov_buckets));
      }
    }
    Require(!tables.empty() || feature.embedding_dim > 0 || feature.columns.empty(), key + ".embedding_dim",
            "is missing; the entry's columns are globs, so no table can name it");
  }

  void ClaimDim(const FeatureConfig& feature, const std::string& name, const TableConfig* table,
                const std::string& key) {
    TableUse& use = uses_[name];
    const std::string dim = std::to_string(feature.embedding_dim);
    if (table != nullptr && table->embedding_dim > 0) {
      Require(table->embedding_dim == feature.embedding_dim, key + ".embedding_dim",
              Differs("embedding_dim", name, feature.embedding_dim, table->embedding_dim));
    } else if (use.dim > 0 && use.dim != feature.embedding_dim) {
      Wrong(key + ".embedding_dim", "table " + name + " cannot have rows of " + dim + " numbers here and of " +
                                        std::to_string(use.dim) + " in line " + std::to_string(use.line) +
                                        "; give both the same, or each a table of its own");
    }
    if (use.dim == 0) {
      use.dim = feature.embedding_dim;
      use.line = feature.line;
    }
  }

  static std::string Differs(const std::string& what, const std::string& table, std::int64_t here, std::int64_t there) {
    return std::to_string(here) + " contradicts tables." + table + "." + what + ": " + std::to_string(there) +
           "; keep one of them";
  }

  const TableConfig* FindTable(const std::string& name) const {
    for (const TableConfig& table : config_.tables) {
      if (table.name == name) return &table;
    }
    return nullptr;
  }

  // ---- tables: after the features that use them
  // -----------------------------------------------------------------------
  void CheckTables() {
    for (const TableConfig& table : config_.tables) {
      const std::string key = "tables." + table.name;
      Require(!table.name.empty(), "tables", "has a table without a name");
      const bool is_used = uses_.contains(table.name) || MatchesGlob(table.name);
      if (!is_used && !mistakes_->Failed("features")) Wrong(key, UnusedTable(table.name));
      Require(table.eviction.idle_steps == 0 || table.eviction.idle_steps >= kMinIdleSteps, key + ".eviction.idle_steps",
              std::to_string(table.eviction.idle_steps) + " is too small; use at least " + std::to_string(kMinIdleSteps) +
                  ", or 0 for no limit");
      Require(table.eviction.max_rows == 0 || table.eviction.max_rows >= kMinTableRows, key + ".eviction.max_rows",
              std::to_string(table.eviction.max_rows) + " is too small; use at least " + std::to_string(kMinTableRows) +
                  ", or 0 for no limit");
    }
    for (const auto& [name, use] : uses_) {
      const TableConfig* table = FindTable(name);
      const bool has_dim = use.dim > 0 || (table != nullptr && table->embedding_dim > 0);
      Require(has_dim || mistakes_->Failed("tables." + name + ".embedding_dim"), use.key + ".embedding_dim",
              NoDim(name));
    }
  }

  static std::string NoDim(const std::string& table) {
    return "is missing: nothing says how wide the rows of table " + table + " are; give it here or in tables." + table;
  }

  [[nodiscard]] bool MatchesGlob(const std::string& name) const {
    return std::any_of(globs_.begin(), globs_.end(),
                       [&](const std::string& glob) { return MatchesPattern(glob, name); });
  }

  [[nodiscard]] std::string UnusedTable(const std::string& name) const {
    std::vector<std::string> used;
    for (const auto& [table, use] : uses_) used.push_back(table);
    const std::string nearest = Nearest(name, used);
    return "no feature uses this table; " +
           (nearest.empty() ? "name it in a feature's `table:` or remove it" : "did you mean " + nearest + "?");
  }

  // ---- model, tasks
  // ---------------------------------------------------------------------------------------------------
  void CheckModel() {
    const ModelConfig& model = config_.model;
    CheckMlp(model.expert_mlp, "model.expert_mlp");
    CheckMlp(model.tower_mlp, "model.tower_mlp");
    if (model.bottom_mlp) CheckMlp(*model.bottom_mlp, "model.bottom_mlp");
    if (model.gate_mlp) CheckMlp(*model.gate_mlp, "model.gate_mlp");
    const bool has_gates = model.type == "mmoe" || model.type == "omoe" || model.type == "ple";
    Require((!has_gates && model.type != "aitm") || !model.expert_mlp.hidden_units.empty(), "model.expert_mlp.hidden_units",
            "is empty; an expert has at least one layer");
    Require(model.type != "single" || !model.bottom_mlp, "model.bottom_mlp",
            "single shares nothing between tasks; remove it, or choose shared_bottom");
    if (has_gates) CheckGates(model);
    if (model.type == "aitm" && model.transfer_mlp) CheckTransfer(model);
  }

  void CheckGates(const ModelConfig& model) {
    const bool is_ple = model.type == "ple";
    Require(is_ple || model.num_expert > 0, "model.num_expert", "0: " + model.type + " needs at least one expert");
    Require(!is_ple || model.num_expert + model.num_task_expert > 0, "model.num_expert",
            "and num_task_expert are both 0; give at least one of them");
    const int experts = model.num_expert + (is_ple ? model.num_task_expert : 0);
    Require(model.top_k <= experts, "model.top_k",
            std::to_string(model.top_k) + " is more than the " + std::to_string(experts) + " experts of a gate; use at most so many, or 0 for all");
    CheckDistinct(model.gate_features, "model.gate_features");
  }

  void CheckTransfer(const ModelConfig& model) {
    CheckMlp(*model.transfer_mlp, "model.transfer_mlp");
    const auto last = [](const MlpConfig& mlp) { return mlp.hidden_units.empty() ? 0 : mlp.hidden_units.back(); };
    Require(last(*model.transfer_mlp) == last(model.expert_mlp), "model.transfer_mlp.hidden_units",
            "must end with " + std::to_string(last(model.expert_mlp)) + " units, as model.expert_mlp does");
  }

  void CheckMlp(const MlpConfig& mlp, const std::string& key) {
    const std::size_t layers = mlp.hidden_units.size();
    const std::size_t ratios = mlp.dropout_ratio.size();
    Require(layers <= static_cast<std::size_t>(kMaxLayers), key + ".hidden_units",
            "has more than " + std::to_string(kMaxLayers) + " layers");
    Require(ratios <= 1 || ratios == layers, key + ".dropout_ratio",
            "has " + std::to_string(ratios) + " numbers for " + std::to_string(layers) +
                " layers; give one number, or one a layer");
    Require(!mlp.use_bn || !mlp.use_ln, key + ".use_ln", "contradicts use_bn; keep one of them");
  }

  void CheckTasks() {
    Require(!config_.tasks.empty(), "tasks",
            "is missing; name what is predicted, such as click: {label_name: is_click}");
    Require(config_.tasks.size() <= static_cast<std::size_t>(kMaxTasks), "tasks",
            "has more than " + std::to_string(kMaxTasks) + " tasks");
    for (const TaskConfig& task : config_.tasks) {
      const std::string key = "tasks." + task.name;
      const bool is_word = !task.name.empty() && std::all_of(task.name.begin(), task.name.end(), [](unsigned char c) {
        return std::isalnum(c) != 0 || c == '_' || c == '-';
      });
      Require(is_word, key, "the name of a task is made of letters, digits, _ and -");
      Require(!task.label_name.empty(), key + ".label_name", "is missing; name the label's column");
      Require(config_.data.sample_weight.empty() || task.label_name != config_.data.sample_weight, key + ".label_name",
              task.label_name + " is the sample weight (data.sample_weight); a weight is no label");
      if (task.mlp) CheckMlp(*task.mlp, key + ".mlp");
      CheckLoss(task, key);
      CheckMetrics(task, key + ".metrics");
    }
  }

  void CheckLoss(const TaskConfig& task, const std::string& key) {
    const auto kind = [](const LossConfig& loss) { return loss.is_binary() ? 0 : loss.type == "watch_time" ? 1 : 2; };
    std::vector<std::string> types;
    for (const LossConfig& loss : task.loss) {
      types.push_back(loss.type);
      Require(kind(loss) == kind(task.loss[0]), key + ".loss",
              task.loss[0].type + " and " + loss.type + " predict different things; keep losses of one kind");
    }
    CheckDistinct(types, key + ".loss");
    Require(config_.model.type != "esmm" || types == std::vector<std::string>{"bce"}, key + ".loss",
            "esmm multiplies probabilities; use bce alone");
    for (const auto& [name, column] : {std::pair{".sample_weight", &task.sample_weight},
                                       {".task_space_indicator_label", &task.task_space_indicator_label}}) {
      Require(config_.data.header || column->empty() || Has(config_.data.column_names, *column), key + name,
              *column + " is not among data.column_names");
    }
    Require(task.sample_weight.empty() || task.sample_weight != task.label_name, key + ".sample_weight",
            task.sample_weight + " is the task's label; name another column");
    Require(task.task_space_indicator_label.empty() || task.in_task_space_weight > 0 || task.out_task_space_weight > 0,
            key + ".in_task_space_weight", "and out_task_space_weight are both 0, so that no sample trains the task; give one of them");
  }

  void CheckMetrics(const TaskConfig& task, const std::string& key) {
    static const std::set<std::string> kOfClasses = {"auc", "gauc", "logloss", "ne", "accuracy", "recall"};
    CheckDistinct(MetricNames(task.metrics), key);
    for (std::size_t i = 0; i < task.metrics.size(); ++i) {
      const MetricConfig& metric = task.metrics[i];
      const std::string item = JoinKey(key, std::to_string(i));
      Require(!kOfClasses.contains(metric.type) || task.is_binary(), item,
              metric.type + " is for labels 0 and 1 (loss: bce or focal); others have rmse, mae, xauc, ndcg, calibration and calibration_error");
      if (!metric.has_groups()) continue;
      const std::string by = item + "." + metric.type + ".by";
      Require(!metric.by.empty(), by, "is missing; name the column of the groups, such as {" + metric.type + ": user_id}");
      Require(metric.by.empty() || metric.by != task.label_name, by,
              metric.by + " is the label, so that each group would have one class; name the column of the groups, such as user_id");
    }
  }

  // ---- training
  // -------------------------------------------------------------------------------------------------------
  void CheckTrain() {
    if (!config_.train.early_stopping) return;
    Require(config_.data.has_valid() || mistakes_->Failed("data.valid") || mistakes_->Failed("data.split"), "train.early_stopping",
            "has nothing to look at; add data.valid or data.split, or remove it");
    CheckMonitor(config_.train.early_stopping->monitor);
  }

  void CheckMonitor(const std::string& monitor) {
    const std::string key = "train.early_stopping.monitor";
    if (monitor == "loss" || mistakes_->Failed("tasks")) return;
    const std::optional<WatchedMetric> watched = ParseMonitor(monitor);
    if (!watched) return Wrong(key, monitor + ": there is no such thing to watch; " + MetricChoices());
    Require(MetricTypeOf(watched->metric) != "calibration", key,
            monitor + ": calibration is best at 1, so that neither more nor less of it is better; watch calibration_error or logloss");
    if (watched->task.empty()) return CheckMeanMonitor(monitor, watched->metric);
    const auto task = std::find_if(config_.tasks.begin(), config_.tasks.end(),
                                   [&](const TaskConfig& candidate) { return candidate.name == watched->task; });
    if (task == config_.tasks.end()) {
      Wrong(key, monitor + ": there is no such thing to watch; " + MetricChoices());
    } else if (!MetricsFailed(*task)) {
      const std::vector<std::string> names = MetricNames(task->metrics);
      Require(Has(names, watched->metric), key,
              monitor + ": task " + task->name + " has the metrics " + Join(names) + "; choose one or add it");
    }
  }

  void CheckMeanMonitor(const std::string& monitor, const std::string& metric) {
    const auto& tasks = config_.tasks;
    if (std::any_of(tasks.begin(), tasks.end(), [&](const TaskConfig& task) { return MetricsFailed(task); })) return;
    const bool is_known = std::any_of(tasks.begin(), tasks.end(), [&](const TaskConfig& task) {
      return Has(MetricNames(task.metrics), metric);
    });
    Require(is_known, "train.early_stopping.monitor", monitor + ": no task has the metric " + metric + "; " + MetricChoices());
  }

  // Is one of the task's metrics not what was meant?
  [[nodiscard]] bool MetricsFailed(const TaskConfig& task) const {
    return mistakes_->Failed("tasks." + task.name + ".metrics") ||
           std::any_of(task.metrics.begin(), task.metrics.end(), [](const MetricConfig& metric) { return metric.type.empty(); });
  }

  // What can be watched: a metric of each task's that grows or shrinks as the model gets better.
  [[nodiscard]] std::string MetricChoices() const {
    std::vector<std::string> choices = {"loss"};
    std::vector<std::string> of_tasks;
    std::set<std::string> means;
    for (const TaskConfig& task : config_.tasks) {
      for (const std::string& metric : MetricNames(task.metrics)) {
        if (MetricTypeOf(metric) == "calibration") continue;
        if (means.insert(metric).second) choices.push_back("mean(" + metric + ")");
        of_tasks.push_back(task.name + "." + metric);
      }
    }
    choices.insert(choices.end(), of_tasks.begin(), of_tasks.end());
    return "write one of " + Join(choices);
  }

  void CheckPs() {
    const PsConfig& ps = config_.ps;
    const bool can_encrypt = ps.transport == "tcp" || ps.transport == "auto";
    Require(ps.encryption != "on" || can_encrypt, "ps.encryption",
            "on is for tcp, ps.transport is " + ps.transport + "; choose tcp or leave encryption: auto");
  }

  const Config& config_;
  const Locate& locate_;
  Mistakes* mistakes_;
  std::map<std::string, int> feature_lines_;
  std::map<std::string, TableUse> uses_;
  std::vector<std::string> globs_;
};

}  // namespace

void CheckConfig(const Config& config, const Locate& locate, Mistakes* mistakes) {
  Checker(config, locate, mistakes).Run();
}

}  // namespace gatemill
