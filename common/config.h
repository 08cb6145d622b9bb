// The configuration of a run, as values: what LoadConfig makes of a YAML file and `--set` overrides.
//
// Every struct here mirrors a section of the YAML file; a member's name is its key there, its initial value is its
// default. common/config_schema.h describes each key once (type, range, documentation); reading, the resolved dump and
// docs/config.md are all made from that description.
//
// Reading collects every mistake before it fails: the status's message has one line per mistake,
// `file:line:column: what is wrong; what to do`, with the nearest known key for an unknown one.
//
// Thread safety: values.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"

namespace gatemill {

// ---- data ------------------------------------------------------------------------------------------------------
// A part of the data: `train: file.csv`, `train: [a.csv, b*.csv]`, or `train: {files: ..., where: "date < 20220429"}`.
struct PartConfig {
  std::vector<std::string> files;  // paths and globs, relative to data.root
  std::string where;               // a row filter, see worker/data/filter.h; "" keeps every row
  [[nodiscard]] bool empty() const { return files.empty(); }
  bool operator==(const PartConfig&) const = default;
};

// `split: 0.8` (share of rows, in file order, that train; the rest validates), or
// `split: {ratio: 0.8, by: hash}` / `{ratio: 0.8, by: user_id}`: by a hash of the row's number, or of a column;
// `split: {ratio: 0.8, rest: test}`: the rest is the test part.
struct SplitConfig {
  double ratio = 1.0;     // in (0, 1]; 1 means no split
  std::string by = "row"; // row | hash | the name of a column
  std::string rest = "valid";  // valid | test: the part that the other rows are
  bool operator==(const SplitConfig&) const = default;
};

struct DataConfig {
  std::string root;  // prefix of relative paths; ${NAME:-default} is replaced from the environment. Relative to the cwd
  PartConfig train;
  PartConfig valid;
  PartConfig test;
  std::string format = "auto";           // auto (by extension) | csv | tsv
  bool header = true;                    // false: the file has no header line, column_names gives the names
  std::vector<std::string> column_names; // required when header is false
  std::vector<std::string> missing = {""};
  SplitConfig split;                     // parts `train` when there is no part of the rest's name
  std::string sample_weight;             // name of a column; "" = every sample weighs 1
  std::int64_t limit = 0;                // first rows of each part only; 0 = all. `--limit N`
  std::int64_t cache_bytes = 4LL << 30;  // a part up to this size is read once and kept; a larger one streams
  std::int64_t shuffle_rows = 1 << 20;   // streaming only: rows shuffled together
  bool shuffle = true;
  // Is there a part to validate on, to test on: files of its own, or the rest of a split?
  [[nodiscard]] bool has_valid() const { return !valid.empty() || (split.ratio < 1.0 && split.rest == "valid"); }
  [[nodiscard]] bool has_test() const { return !test.empty() || (split.ratio < 1.0 && split.rest == "test"); }
  bool operator==(const DataConfig&) const = default;
};

// ---- tables and features -----------------------------------------------------------------------------------------
struct InitializerConfig {
  std::string type = "uniform";  // uniform: U(-scale, scale) | normal: N(0, scale^2) | zeros
  double scale = 0.01;
  bool operator==(const InitializerConfig&) const = default;
};

// Sparse optimizers with PyTorch's formulas; unused members do not apply to the type.
struct SparseOptimizerConfig {
  std::string type = "rowwise_adagrad";  // sgd | adagrad | rowwise_adagrad | adam | ftrl
  double lr = 0.02;
  double eps = 1e-10;                // adagrad, rowwise_adagrad: 1e-10; adam: 1e-8
  double initial_accumulator = 0.0;  // adagrad, rowwise_adagrad, ftrl (McMahan et al. 2013; there 0.1 by default)
  double beta1 = 0.9;                // adam
  double beta2 = 0.999;              // adam
  double l1 = 0.0;                   // ftrl
  double l2 = 0.0;                   // ftrl
  double beta = 1.0;                 // ftrl
  bool operator==(const SparseOptimizerConfig&) const = default;
};

// When a value of a table gets a row. A count is a global step in which the value was trained.
struct AdmissionConfig {
  std::int64_t min_count = 1;               // with so many it gets its row; 1 = with its first use
  std::int64_t max_candidates = 1'000'000;  // values without a row whose counts are kept
  bool operator==(const AdmissionConfig&) const = default;
};

// When a row goes for good. 0 = no such limit.
struct EvictionConfig {
  std::int64_t idle_steps = 0;  // not trained for more than so many steps
  std::int64_t idle_days = 0;   // the same in whole days of worker 0's clock (UTC)
  std::int64_t max_rows = 0;    // of the table, over all servers
  std::string policy = "lru";   // lru | lfu: which rows go when there are more
  bool operator==(const EvictionConfig&) const = default;
};

inline constexpr std::int64_t kMinIdleSteps = 64;
inline constexpr std::int64_t kMinTableRows = 16'384;  // of a limit: 16 for each of a table's vshards
inline constexpr std::int64_t kMaxSightings = 1 << 20;

struct TableConfig {
  std::string name;
  int embedding_dim = 0;  // 0 = taken from the features that use it
  InitializerConfig initializer;
  std::optional<SparseOptimizerConfig> optimizer;  // none: train.sparse_optimizer
  std::int64_t hash_buckets = 0;   // 0 = all 64 bits of a key are kept
  std::int64_t oov_buckets = 0;    // 0 = unseen values read zeros
  double oov_ratio = 0.02;         // share of uses of rowless values that train an oov row instead; with oov_buckets only
  std::string dtype = "fp32";      // fp32 | fp16 | bf16: as what embeddings are kept in memory
  AdmissionConfig admission;
  EvictionConfig eviction;
  bool operator==(const TableConfig&) const = default;
};

enum class FeatureType { kSparse, kDense };
enum class Pooling { kSum, kMean, kMax };

struct BucketizeConfig {
  std::vector<double> boundaries;  // bucket i holds boundaries[i-1] <= value < boundaries[i]
  int quantiles = 0;               // boundaries at these quantiles of the training part; excludes `boundaries`
  [[nodiscard]] bool empty() const { return boundaries.empty() && quantiles == 0; }
  bool operator==(const BucketizeConfig&) const = default;
};

// One entry of `features:`; it may stand for many columns.
struct FeatureConfig {
  FeatureType type = FeatureType::kSparse;
  std::vector<std::string> columns;   // names and globs
  std::string name;                   // only with one column; default: the column's name
  int embedding_dim = 0;              // sparse; 0 = the table's
  std::string table;                  // sparse; default: the feature's name
  std::string separator;              // sparse: the value is a list
  Pooling pooling = Pooling::kMean;   // sparse lists
  int max_length = 0;                 // sparse lists: keep the first so many; 0 = all
  std::int64_t hash_buckets = 0;      // into the feature's own table
  std::int64_t oov_buckets = 0;
  BucketizeConfig bucketize;          // the number becomes a bucket id; type sparse: an embedding, dense: a one-hot
  std::vector<std::string> transform; // dense, in order: log1p | minmax | zscore ("none" = nothing)
  int line = 0;                       // where it stands in the file, for messages
  bool operator==(const FeatureConfig&) const = default;
};

// Limits of a model. Sizes past them are mistakes of the user, not models.
inline constexpr int kMaxLayers = 64;  // of one stack
inline constexpr int kMaxExperts = 1024;
inline constexpr int kMaxLevels = 16;  // of ple

// ---- model -------------------------------------------------------------------------------------------------------
struct MlpConfig {
  std::vector<int> hidden_units = {};
  std::string activation = "relu";    // relu | leaky_relu | prelu | gelu | silu | tanh | sigmoid | linear | dice
  std::vector<double> dropout_ratio = {};  // one value for all layers, or one per layer; empty = 0
  bool use_bn = false;                // Linear -> BatchNorm -> activation -> dropout
  bool use_ln = false;                // the same with LayerNorm
  bool operator==(const MlpConfig&) const = default;
};

// First values of the dense part's weights; biases are 0, but with linear.
struct DenseInitializerConfig {
  // linear: weights and biases U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as torch.nn.Linear | xavier_uniform | xavier_normal |
  // kaiming_uniform | kaiming_normal | uniform: U(-scale, scale) | normal: N(0, scale^2)
  std::string type = "linear";
  double scale = 0.01;  // uniform, normal
  bool operator==(const DenseInitializerConfig&) const = default;
};

struct ModelConfig {
  std::string type = "mmoe";  // single | shared_bottom | omoe | mmoe | ple | esmm | aitm
  std::optional<MlpConfig> bottom_mlp;  // under the experts; shared_bottom: the shared bottom itself
  int num_expert = 8;                   // that all tasks share; ple: of each level
  int num_task_expert = 1;              // ple: of each task, of each level
  int num_level = 1;                    // ple
  MlpConfig expert_mlp{.hidden_units = {64, 32}};
  std::optional<MlpConfig> gate_mlp;  // none: the gate is one linear map
  bool gate_bias = true;
  bool gate_bn = false;                    // batch norm of the logits
  std::vector<std::string> gate_features;  // names and globs of features; none: what the experts read
  double gate_dropout_ratio = 0.0;         // experts a gate leaves out in training, the others' weights are renormalized
  int top_k = 0;                           // experts a gate keeps; 0 = all
  std::optional<MlpConfig> transfer_mlp;   // aitm; none: one layer as wide as an expert's last
  MlpConfig tower_mlp{.hidden_units = {16}};
  DenseInitializerConfig initializer;
  bool operator==(const ModelConfig&) const = default;
};

// An entry of a task's `metrics:`, written by its type: `auc`, `{gauc: user_id}`, `{ndcg: {by: user_id, k: 10}}`.
struct MetricConfig {
  std::string type;  // auc | gauc | logloss | ne | calibration | calibration_error | accuracy | rmse | mae | xauc | recall | ndcg
  std::string by;    // with groups: the column whose values are the groups
  int k = 10;        // with k: predictions of a group that count, the highest
  int buckets = 10;  // calibration_error
  [[nodiscard]] bool has_k() const { return type == "recall" || type == "ndcg"; }
  [[nodiscard]] bool has_groups() const { return type == "gauc" || has_k(); }
  bool operator==(const MetricConfig&) const = default;
};

// An entry of a task's `loss:`, written by its type: `bce`, `{focal: {gamma: 2}}`, `{huber: 1}`. Formulas: worker/model/losses.h.
struct LossConfig {
  std::string type = "bce";      // bce | focal | mse | mae | huber | watch_time
  double weight = 1.0;           // in the task's sum of losses
  double label_smoothing = 0.0;  // bce, focal
  double gamma = 2.0;            // focal
  double alpha = 0.5;            // focal: weight of positives, 1 - alpha of negatives
  double delta = 1.0;            // huber
  // Is the label 0 or 1, and the prediction the probability of 1?
  [[nodiscard]] bool is_binary() const { return type == "bce" || type == "focal"; }
  bool operator==(const LossConfig&) const = default;
};

struct TaskConfig {
  std::string name;
  std::string label_name;
  std::vector<LossConfig> loss = {LossConfig{}};  // all binary, all of values (mse, mae, huber), or watch_time alone
  std::string label_transform = "none";           // none | log1p: of values; predictions are transformed back
  double weight = 1.0;
  std::string sample_weight = {};                 // column with this task's weight of each sample; "" = 1
  std::string task_space_indicator_label = {};    // column that is above 0 where a sample is in the task's space; "" = all are
  double in_task_space_weight = 1.0;
  double out_task_space_weight = 0.0;
  std::string task_space_reduction = "space";     // space | batch: what a mean loss is divided by
  [[nodiscard]] bool is_binary() const { return !loss.empty() && loss[0].is_binary(); }
  [[nodiscard]] bool weighs_samples() const { return !sample_weight.empty() || !task_space_indicator_label.empty(); }
  std::optional<MlpConfig> mlp;    // replaces model.tower_mlp
  std::vector<MetricConfig> metrics;  // default: bce auc+logloss, mse rmse+mae
  bool operator==(const TaskConfig&) const = default;
};

// ---- training ----------------------------------------------------------------------------------------------------
struct DenseOptimizerConfig {
  std::string type = "adam";  // adam | adamw | adagrad | sgd
  double lr = 0.001;
  double weight_decay = 0.0;  // adamw: decoupled; others: added to the gradient, as PyTorch does
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;          // adagrad: 1e-10
  double momentum = 0.0;      // sgd
  double initial_accumulator = 0.0;  // adagrad
  bool operator==(const DenseOptimizerConfig&) const = default;
};

enum class Consistency { kSync, kBounded, kAsync };

struct EarlyStoppingConfig {
  std::string monitor = "mean(auc)";  // METRIC of a task "income.auc", "mean(METRIC)", or "loss"
  int patience = 3;                   // epochs without improvement before training stops
  double min_delta = 0.0;
  bool operator==(const EarlyStoppingConfig&) const = default;
};

struct CheckpointConfig {
  int every_epochs = 1;            // 0 = only the last; the best is always kept when there is a valid part
  std::int64_t every_steps = 0;    // 0 = not by steps
  double every_minutes = 0.0;      // since the last one was begun; 0 = not by time
  int keep = 2;                    // newest kept, beside the best
  bool operator==(const CheckpointConfig&) const = default;
};

struct TrainConfig {
  std::uint64_t seed = 1;
  int num_epochs = 1;
  std::int64_t max_steps = 0;               // 0 = no limit
  std::int64_t global_batch_size = 1024;    // samples a step, summed over workers
  std::int64_t eval_batch_size = 8192;      // per worker
  std::string loss_reduction = "mean";      // mean | sum: over the global batch
  std::string device = "auto";              // auto | cpu | cuda
  int threads = 2;                          // compute threads of each worker; never derived from the machine
  Consistency consistency = Consistency::kSync;
  int staleness = 0;                        // k of `consistency: {bounded: k}`
  DenseOptimizerConfig dense_optimizer;
  SparseOptimizerConfig sparse_optimizer;
  std::optional<EarlyStoppingConfig> early_stopping;
  CheckpointConfig checkpoint;
  int log_every_steps = 100;
  bool operator==(const TrainConfig&) const = default;
};

struct PsConfig {
  std::string transport = "auto";    // auto | inproc | ipc | tcp. auto: inproc alone, ipc on one host, tcp between hosts
  std::string encryption = "auto";   // auto (tcp between hosts) | on | off: CURVE
  std::string wire = "fp32";         // fp32 | fp16 | bf16: as what rows and gradients travel, in process too
  int threads = 1;                   // shards per server
  std::int64_t memory_budget = 0;    // bytes of each server for rows, caches and buffers; the coldest rows go to disk. 0 = no limit
  int deadline_ms = 30000;           // a request without an answer for so long fails, naming the server
  std::string dir;                   // RocksDB's working directory; "" = RUN/ps
  bool operator==(const PsConfig&) const = default;
};

struct Config {
  std::string path;  // of the file, for messages
  DataConfig data;
  std::vector<TableConfig> tables;
  std::vector<FeatureConfig> features;
  ModelConfig model;
  std::vector<TaskConfig> tasks;  // in file order
  TrainConfig train;
  PsConfig ps;
  bool operator==(const Config&) const = default;
};

// Reads `path`, applies overrides ("train.seed=2", "tasks.income.weight=2", "model.gate_mlp=null"; the value is YAML)
// and checks everything that can be checked without the data. kInvalidInput lists every mistake.
Result<Config> LoadConfig(const std::string& path, const std::vector<std::string>& overrides);
// What was read beside what is wrong with it, for `check`, which goes on to the data: a value with a mistake has its
// default. `readable`: the file is a YAML map at all.
struct ConfigReading {
  Config config;
  Status status;
  bool readable = false;
};
ConfigReading ReadConfig(const std::string& path, const std::vector<std::string>& overrides);
// The same from text; `path` is only named in messages.
Result<Config> ParseConfig(const std::string& yaml, const std::string& path, const std::vector<std::string>& overrides);
// For messages about what ParseBytes does not take.
inline constexpr const char* kBytesForms = "a number of bytes such as 512MiB (KiB, MiB, GiB or TiB, whole)";
// "4096", "512MiB" (KiB, MiB, GiB, TiB), as every number of bytes is written; nothing for another text or a negative number.
std::optional<std::int64_t> ParseBytes(const std::string& text);
// The whole configuration with every default written out; ParseConfig of it gives an equal Config.
std::string ResolvedYaml(const Config& config);
// docs/config.md: every key, its type, range, default and meaning.
std::string ConfigReference();
// The path of one of the part's files as it is opened: root joined, environment variables replaced.
std::string DataPath(const DataConfig& data, const std::string& file);

}  // namespace gatemill
