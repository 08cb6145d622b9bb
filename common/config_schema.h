// One description of every key of the configuration: name, type, range, default, meaning, and what others call it.
// Reading (config_read.cc), the resolved dump (config_dump.cc) and docs/config.md (config_reference.cc) are visitors of
// it.
//
//   template <class V> void Describe(V& v, MlpConfig& c) {
//     v.Title("mlp", "...");
//     v.Field(c.use_bn, {.name = "use_bn", .doc = "..."});
//   }
//
// The type is the member's, the default its initial value. A visitor has
//   static constexpr bool kReads;                          // true: Field sets the value from the file
//   void Title(std::string_view name, std::string_view doc);
//   template <class T> void Field(T& value, const Key& key);
//   void ConsistencyField(Consistency& consistency, int& staleness, const Key& key);
// Fields are visited in this order whatever the file's order, so that a later one may depend on an earlier one.
//
// To add a key: a member in config.h with its default, a Field here, and a run of the tests with GATEMILL_WRITE_DOCS=1.
// Only common/config_*.cc include this header.
#pragma once

#include <array>
#include <concepts>
#include <limits>
#include <string_view>
#include <vector>

#include "common/config.h"

namespace gatemill {

inline constexpr double kNoBound = std::numeric_limits<double>::quiet_NaN();

// Limits of a configuration. Sizes past them are mistakes of the user, not models.
inline constexpr int kMaxEmbeddingDim = 4096;
inline constexpr int kMaxHiddenUnits = 65536;
inline constexpr int kMaxTasks = 64;
inline constexpr int kMaxBuckets = 65536;
inline constexpr std::int64_t kMaxBatch = 1 << 24;

// A name that users bring from elsewhere, and what they should write: `use`, or the key itself when empty.
struct Foreign {
  std::string_view name;
  std::string_view use = {};
};

struct Key {
  std::string_view name;
  // Numbers and each number of a list: min <= value <= max, above < value < below.
  double min = kNoBound;
  double max = kNoBound;
  double above = kNoBound;
  double below = kNoBound;
  std::vector<std::string_view> choices = {};  // text and each text of a list; empty = any
  std::vector<Foreign> foreign_choices = {};   // names that users bring for choices, and what they should write
  bool bytes = false;                          // a number of bytes: 4GiB, 512MiB are legal
  bool shorthand = false;                      // `section: VALUE` means `section: {this key: VALUE}`
  bool applies = true;                         // false: with the values read so far, the key means nothing
  std::string_view when = {};                  // when it applies, for people
  std::vector<Foreign> foreign = {};
  std::string_view doc;
};

// ---- names of enumerators, in order ---------------------------------------------------------------------------------
template <class E>
struct EnumNames;
template <>
struct EnumNames<FeatureType> {
  static constexpr std::array<std::string_view, 2> kNames{"sparse", "dense"};
};
template <>
struct EnumNames<Pooling> {
  static constexpr std::array<std::string_view, 3> kNames{"sum", "mean", "max"};
};
template <class E>
std::string_view EnumName(E value) {
  return EnumNames<E>::kNames[static_cast<std::size_t>(value)];
}

// ---- data -----------------------------------------------------------------------------------------------------------
template <class V>
void Describe(V& v, PartConfig& c) {
  v.Title("part", "A part of the data: `train: a.csv`, `train: [a.csv, b*.csv]` or `train: {files: ..., where: ...}`.");
  v.Field(c.files, {.name = "files",
                    .shorthand = true,
                    .foreign = {{"file"}, {"path"}, {"paths"}, {"filename"}},
                    .doc = "Paths and globs, relative to data.root."});
  v.Field(c.where, {.name = "where",
                    .foreign = {{"filter"}, {"query"}, {"condition"}},
                    .doc = "Keeps the rows for which it holds, such as `date < 20220429`."});
}

template <class V>
void Describe(V& v, SplitConfig& c) {
  v.Title("split", "Parts data.train: `split: 0.8` or `split: {ratio: 0.8, by: user_id}`.");
  v.Field(c.ratio, {.name = "ratio",
                    .max = 1,
                    .above = 0,
                    .shorthand = true,
                    .foreign = {{"train_ratio"}, {"train_size"}, {"share"}},
                    .doc = "Share that trains. 1 is no split."});
  v.Field(c.by, {.name = "by",
                 .foreign = {{"key"}, {"column"}, {"on"}},
                 .doc = "row: the first rows train; hash: by a hash of the row's number; or a column: by a hash of its "
                        "value, so that equal values stay together."});
  v.Field(c.rest, {.name = "rest", .choices = {"valid", "test"}, .doc = "The part that the other rows are."});
}

template <class V>
void Describe(V& v, DataConfig& c) {
  v.Title("data", "Where the samples are and how they are read.");
  v.Field(c.root, {.name = "root",
                   .foreign = {{"path"}, {"data_path"}, {"data_dir"}, {"dataset_path"}, {"dir"}},
                   .doc = "Prefix of relative paths, itself relative to the working directory. `${NAME:-default}` is "
                          "replaced from the environment, here and in files."});
  v.Field(c.train, {.name = "train",
                    .foreign = {{"train_data"}, {"train_file"}, {"train_files"}, {"train_path"}, {"files"}},
                    .doc = "The part that trains."});
  v.Field(c.valid, {.name = "valid",
                    .foreign = {{"val"}, {"validation"}, {"eval"}, {"dev"}, {"valid_data"}, {"val_data"}},
                    .doc = "The part that early stopping and the best checkpoint look at."});
  v.Field(c.test, {.name = "test",
                   .foreign = {{"test_data"}, {"test_file"}, {"test_files"}},
                   .doc = "Read once, after training, and reported."});
  v.Field(c.format, {.name = "format",
                     .choices = {"auto", "csv", "tsv"},
                     .foreign = {{"file_format"}, {"file_type"}, {"data_format"}},
                     .doc = "auto: by the file's extension; each may end in .gz."});
  v.Field(c.header, {.name = "header",
                     .foreign = {{"has_header"}, {"skip_header"}},
                     .doc = "The first line of each file names its columns."});
  v.Field(c.column_names, {.name = "column_names",
                           .applies = !c.header,
                           .when = "header: false",
                           .foreign = {{"names"}, {"columns"}, {"fields"}},
                           .doc = "Names of the columns, in order, of files without a header line."});
  v.Field(c.missing, {.name = "missing",
                      .foreign = {{"na_values"}, {"na"}, {"null_values"}, {"nan"}, {"missing_values"}},
                      .doc = "Texts that mean a value is missing."});
  v.Field(c.split, {.name = "split",
                    .foreign = {{"validation_split"}, {"val_ratio"}, {"test_size"}, {"train_ratio", "split.ratio"}},
                    .doc = "A share of data.train that trains; the rest validates."});
  v.Field(c.sample_weight, {.name = "sample_weight",
                            .foreign = {{"weight"}, {"weights"}, {"weight_column"}, {"instance_weight"}},
                            .doc = "Column with each sample's weight; \"\": every sample weighs 1."});
  v.Field(c.limit, {.name = "limit",
                    .min = 0,
                    .foreign = {{"nrows"}, {"max_rows"}, {"max_samples"}, {"num_samples"}},
                    .doc = "Only the first rows of each part; 0 = all. Also `--limit N`."});
  v.Field(c.cache_bytes, {.name = "cache_bytes",
                          .min = 0,
                          .bytes = true,
                          .foreign = {{"cache"}, {"cache_size"}, {"in_memory"}},
                          .doc = "A part up to this size is read once and kept in memory; a larger one streams."});
  v.Field(c.shuffle_rows, {.name = "shuffle_rows",
                           .min = 1,
                           .max = 1LL << 30,
                           .foreign = {{"shuffle_buffer"}, {"shuffle_buffer_size"}, {"shuffle_size"}},
                           .doc = "Streaming only: rows that are shuffled together."});
  v.Field(c.shuffle, {.name = "shuffle", .doc = "Another order of the samples every epoch, by train.seed."});
}

// ---- tables and features
// ----------------------------------------------------------------------------------------------
template <class V>
void Describe(V& v, InitializerConfig& c) {
  v.Title("initializer", "First values of a new row, made from (seed, table, key) alone.");
  v.Field(c.type, {.name = "type",
                   .choices = {"uniform", "normal", "zeros"},
                   .shorthand = true,
                   .foreign = {{"name"}, {"kind"}, {"method"}},
                   .doc = "uniform: U(-scale, scale); normal: N(0, scale^2); zeros."});
  v.Field(c.scale, {.name = "scale",
                    .max = 1e6,
                    .above = 0,
                    .applies = c.type != "zeros",
                    .when = "type: uniform, normal",
                    .foreign = {{"std"}, {"stddev"}, {"init_std"}, {"range"}},
                    .doc = "Half the width of uniform, the standard deviation of normal."});
}

template <class V>
void Describe(V& v, SparseOptimizerConfig& c) {
  v.Title("sparse optimizer",
          "Optimizer of embedding rows, with PyTorch's formulas. `sparse_optimizer: adam` is short for "
          "`{type: adam}`.");
  v.Field(c.type, {.name = "type",
                   .choices = {"sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"},
                   .shorthand = true,
                   .foreign = {{"name"}, {"kind"}, {"optimizer"}},
                   .doc = "rowwise_adagrad keeps one accumulator a row; FTRL is McMahan et al. 2013."});
  v.Field(c.lr, {.name = "lr",
                 .max = 1e6,
                 .above = 0,
                 .foreign = {{"learning_rate"}, {"lr_rate"}, {"rate"}, {"alpha"}, {"step_size"}},
                 .doc = "Learning rate."});
  const bool is_adagrad = c.type == "adagrad" || c.type == "rowwise_adagrad";
  if constexpr (V::kReads) {
    c.eps = c.type == "adam" ? 1e-8 : 1e-10;
    c.initial_accumulator = c.type == "ftrl" ? 0.1 : 0.0;
  }
  v.Field(c.eps, {.name = "eps",
                  .max = 1,
                  .above = 0,
                  .applies = is_adagrad || c.type == "adam",
                  .when = "type: adagrad, rowwise_adagrad, adam",
                  .foreign = {{"epsilon"}},
                  .doc = "Added to the root; by default 1e-10, adam 1e-8."});
  v.Field(c.initial_accumulator, {.name = "initial_accumulator",
                                  .min = 0,
                                  .max = 1e6,
                                  .applies = is_adagrad || c.type == "ftrl",
                                  .when = "type: adagrad, rowwise_adagrad, ftrl",
                                  .foreign = {{"initial_accumulator_value"}, {"init_accumulator"}},
                                  .doc = "First value of the sum of squares; by default 0, ftrl 0.1."});
  v.Field(c.beta1, {.name = "beta1",
                    .min = 0,
                    .below = 1,
                    .applies = c.type == "adam",
                    .when = "type: adam",
                    .foreign = {{"beta_1"}, {"betas"}},
                    .doc = "Decay of the first moment."});
  v.Field(c.beta2, {.name = "beta2",
                    .min = 0,
                    .below = 1,
                    .applies = c.type == "adam",
                    .when = "type: adam",
                    .foreign = {{"beta_2"}},
                    .doc = "Decay of the second moment."});
  const bool is_ftrl = c.type == "ftrl";
  v.Field(c.l1, {.name = "l1",
                 .min = 0,
                 .max = 1e6,
                 .applies = is_ftrl,
                 .when = "type: ftrl",
                 .foreign = {{"l1_reg"}, {"l1_regularization_strength"}},
                 .doc = "Weight of the L1 penalty."});
  v.Field(c.l2, {.name = "l2",
                 .min = 0,
                 .max = 1e6,
                 .applies = is_ftrl,
                 .when = "type: ftrl",
                 .foreign = {{"l2_reg"}, {"l2_reg_embedding"}, {"l2_regularization_strength"}},
                 .doc = "Weight of the L2 penalty."});
  v.Field(c.beta, {.name = "beta",
                   .min = 0,
                   .max = 1e6,
                   .applies = is_ftrl,
                   .when = "type: ftrl",
                   .doc = "Added to the root of the sum of squares in a coordinate's learning rate."});
}

template <class V>
void Describe(V& v, AdmissionConfig& c) {
  v.Title("admission", "When a value gets a row of its own, `admission: {min_count: 5}`.");
  v.Field(c.min_count, {.name = "min_count",
                        .min = 1,
                        .max = kMaxSightings,
                        .shorthand = true,
                        .foreign = {{"filter_freq"}, {"min_freq"}, {"occurrence_threshold"}, {"threshold"}},
                        .doc = "Global steps that train a value before it gets its row; until then it reads and trains its table's "
                               "shared rows (oov_buckets; without them it reads zeros). The row starts with its first value, which "
                               "later steps train. 1 = a row with the first use."});
  v.Field(c.max_candidates, {.name = "max_candidates",
                             .min = kMinTableRows,
                             .max = 1LL << 31,
                             .applies = c.min_count > 1,
                             .when = "min_count > 1",
                             .doc = "Values without a row whose counts are kept, about 32 bytes each, over all servers; each of 1,024 parts "
                                    "by hash has its share. Of more, those not trained for longest begin again at 0."});
}

template <class V>
void Describe(V& v, EvictionConfig& c) {
  v.Title("eviction",
          "When a row goes for good. Decided at step boundaries, by steps alone, so the same on any number of servers and "
          "after a resume; idle_days by worker 0's clock too, and a resumed run sees the days on which it runs.");
  v.Field(c.idle_steps, {.name = "idle_steps",
                         .min = 0,
                         .max = 1LL << 32,
                         .foreign = {{"steps_to_live"}, {"expire_steps"}, {"ttl_steps"}},
                         .doc = "A row that was not trained for more than so many steps, at least 64, goes, at most a quarter of them later; 0 = never."});
  v.Field(c.idle_days, {.name = "idle_days",
                        .min = 0,
                        .max = 36500,
                        .foreign = {{"expire_days"}, {"expire_time"}, {"ttl_days"}, {"ttl"}},
                        .doc = "A row that was last trained more than so many days ago (UTC, by worker 0's clock) goes, at most 1,024 "
                               "steps after midnight. A run that was interrupted for longer than that loses every row but those that "
                               "the day of its return trains. 0 = never."});
  v.Field(c.max_rows, {.name = "max_rows",
                       .min = 0,
                       .max = 1LL << 40,
                       .foreign = {{"capacity"}, {"max_capacity"}, {"max_size"}},
                       .doc = "Rows over all servers, at least 16,384; each of 1,024 parts by hash has its share, and of a part with "
                              "more a sixteenth of the share goes, within 16 steps. Parts differ by chance: with fewer than some hundred rows "
                              "each, rows go well before the table has max_rows. 0 = no limit."});
  v.Field(c.policy, {.name = "policy",
                     .choices = {"lru", "lfu"},
                     .applies = c.max_rows > 0,
                     .when = "max_rows > 0",
                     .foreign = {{"eviction_policy"}, {"evict_strategy"}},
                     .doc = "Which rows go first: lru: trained least recently; lfu: trained least often, of equal ones the least "
                            "recently."});
}

template <class V>
void Describe(V& v, TableConfig& c) {
  v.Title("table",
          "Rows that one or more features share, `tables: {NAME: {...}}`. Only what is shared or not default "
          "needs an entry: a feature without `table` has a table of its own name.");
  v.Field(c.embedding_dim, {.name = "embedding_dim",
                            .min = 0,
                            .max = kMaxEmbeddingDim,
                            .foreign = {{"emb_dim"}, {"embed_dim"}, {"emb_size"}, {"embedding_size"}, {"dim"}},
                            .doc = "Numbers in an embedding; 0 = taken from the features that use the table."});
  v.Field(c.initializer, {.name = "initializer",
                          .foreign = {{"init"}, {"embedding_initializer"}, {"embeddings_initializer"}},
                          .doc = "First values of a new row."});
  v.Field(c.optimizer,
          {.name = "optimizer", .foreign = {{"sparse_optimizer"}}, .doc = "Instead of train.sparse_optimizer."});
  v.Field(c.hash_buckets,
          {.name = "hash_buckets",
           .min = 0,
           .max = 1LL << 40,
           .foreign = {{"hash_size"}, {"num_buckets"}, {"vocab_size"}, {"vocabulary_size"}, {"use_hash"}},
           .doc = "Values share that many rows by hash; 0 = every value has a row of its own."});
  v.Field(c.oov_buckets, {.name = "oov_buckets",
                          .min = 0,
                          .max = 1 << 24,
                          .foreign = {{"num_oov_buckets"}, {"oov_size"}, {"oov"}},
                          .doc = "Shared rows that values unseen in training read; 0 = they read zeros."});
  v.Field(c.admission, {.name = "admission", .foreign = {{"filter"}, {"admit"}}, .doc = "When a value gets a row."});
  v.Field(c.eviction, {.name = "eviction", .foreign = {{"expire"}, {"evict"}}, .doc = "When a row goes."});
  v.Field(c.oov_ratio, {.name = "oov_ratio",
                        .min = 0,
                        .below = 1,
                        .applies = c.oov_buckets > 0 && c.admission.min_count == 1,
                        .when = "oov_buckets > 0 beside it and no admission",
                        .foreign = {{"oov_share"}, {"oov_dropout"}},
                        .doc = "Share of the uses of a value that has no row yet which train a shared row instead, so that shared rows "
                               "learn what new values have in common. A value that has a row, as of the step's "
                               "pull, is never dropped."});
  v.Field(c.dtype, {.name = "dtype",
                    .choices = {"fp32", "fp16", "bf16"},
                    .foreign = {{"data_type"}, {"emb_dtype"}, {"embedding_dtype"}, {"precision"}, {"weights_precision"}},
                    .doc = "As what a server keeps embeddings in memory; 16 bits halve the bytes. An update is computed in "
                           "fp32 and rounded stochastically, by draws from train.seed, so that small steps are not lost; the "
                           "optimizer's state stays fp32. fp16 has 11 significant bits and ends at 65,504, bf16 has 8 and fp32's range."});
}

template <class V>
void Describe(V& v, BucketizeConfig& c) {
  v.Title("bucketize",
          "Turns a number into the number of its bucket: `bucketize: [18, 30, 50]` or "
          "`bucketize: {quantiles: 32}`.");
  v.Field(c.boundaries, {.name = "boundaries",
                         .shorthand = true,
                         .foreign = {{"bins"}, {"edges"}, {"borders"}},
                         .doc = "Ascending; bucket i holds boundaries[i-1] <= value < boundaries[i]."});
  v.Field(c.quantiles, {.name = "quantiles",
                        .min = 0,
                        .max = kMaxBuckets,
                        .foreign = {{"num_bins"}, {"n_bins"}, {"buckets"}, {"num_buckets"}},
                        .doc = "Boundaries at so many quantiles of the training part; instead of boundaries."});
}

template <class V>
void Describe(V& v, FeatureConfig& c) {
  v.Title("feature",
          "An entry of the list `features:`; it may stand for many columns. x is the embeddings, in this "
          "order, then the numbers, in this order.");
  v.Field(c.type, {.name = "type",
                   .foreign = {{"feature_type"}, {"kind"}, {"feature_class"}},
                   .doc = "sparse: ids, each with an embedding; dense: numbers."});
  const bool is_sparse = c.type == FeatureType::kSparse;
  v.Field(c.columns, {.name = "columns",
                      .shorthand = true,
                      .foreign = {{"column"}, {"col"}, {"cols"}, {"field"}, {"fields"}, {"slot"}, {"feature"}},
                      .doc = "Names and globs (`onehot_feat*`) of columns."});
  v.Field(c.name, {.name = "name",
                   .foreign = {{"feature_name"}},
                   .doc = "Name of the feature, with one column only; by default the column's."});
  v.Field(c.embedding_dim, {.name = "embedding_dim",
                            .min = 0,
                            .max = kMaxEmbeddingDim,
                            .applies = is_sparse,
                            .when = "type: sparse",
                            .foreign = {{"emb_dim"}, {"embed_dim"}, {"emb_size"}, {"embedding_size"}, {"dim"}},
                            .doc = "Numbers in an embedding; 0 = the table's."});
  v.Field(c.table, {.name = "table",
                    .applies = is_sparse,
                    .when = "type: sparse",
                    .foreign = {{"shared_with"},
                                {"share_embedding"},
                                {"embedding_name"},
                                {"vocab"},
                                {"dtype", "tables.NAME.dtype"},
                                {"data_type", "tables.NAME.dtype"}},
                    .doc = "The table whose rows it reads; by default one of the feature's own name."});
  v.Field(c.separator, {.name = "separator",
                        .applies = is_sparse,
                        .when = "type: sparse",
                        .foreign = {{"sep"}, {"delimiter"}, {"splitter"}},
                        .doc = "The value is a list with this text between its ids; \"\": one id."});
  v.Field(c.pooling, {.name = "pooling",
                      .applies = is_sparse && !c.separator.empty(),
                      .when = "separator",
                      .foreign = {{"combiner"}, {"reduce"}, {"pool"}, {"aggregation"}},
                      .doc = "How the embeddings of a list become one."});
  v.Field(c.max_length, {.name = "max_length",
                         .min = 0,
                         .max = 1 << 20,
                         .applies = is_sparse && !c.separator.empty(),
                         .when = "separator",
                         .foreign = {{"maxlen"}, {"max_len"}, {"max_seq_len"}, {"length"}},
                         .doc = "Keeps the first so many ids of a list; 0 = all."});
  v.Field(c.hash_buckets,
          {.name = "hash_buckets",
           .min = 0,
           .max = 1LL << 40,
           .applies = is_sparse && c.table.empty(),
           .when = "type: sparse, no `table` (there: tables.NAME.hash_buckets)",
           .foreign = {{"hash_size"}, {"num_buckets"}, {"vocab_size"}, {"vocabulary_size"}, {"use_hash"}},
           .doc = "Of the feature's own table."});
  v.Field(c.oov_buckets, {.name = "oov_buckets",
                          .min = 0,
                          .max = 1 << 24,
                          .applies = is_sparse && c.table.empty(),
                          .when = "type: sparse, no `table` (there: tables.NAME.oov_buckets)",
                          .foreign = {{"num_oov_buckets"}, {"oov_size"}, {"oov"}},
                          .doc = "Of the feature's own table."});
  v.Field(c.bucketize, {.name = "bucketize",
                        .foreign = {{"discretize"},
                                    {"discretizer"},
                                    {"bins", "bucketize.boundaries"},
                                    {"boundaries", "bucketize.boundaries"},
                                    {"quantiles", "bucketize.quantiles"}},
                        .doc = "The column's number becomes its bucket's id; sparse: an embedding, dense: a one-hot."});
  v.Field(c.transform,
          {.name = "transform",
           .choices = {"none", "log1p", "minmax", "zscore"},
           .applies = !is_sparse,
           .when = "type: dense",
           .foreign = {{"transforms"}, {"normalize"}, {"normalizer"}, {"scaler"}, {"preprocess"}, {"norm"}},
           .doc = "In order; statistics are the training part's. log1p: log(1 + v), first of all; minmax: to "
                  "[0, 1], clipped to the range seen in training; zscore: (v - mean) / deviation."});
}

// ---- model
// -----------------------------------------------------------------------------------------------------------
template <class V>
void Describe(V& v, MlpConfig& c) {
  v.Title("mlp",
          "Layers of linear map, batch or layer norm (if asked for), activation, dropout. `mlp: [64, 32]` is short for "
          "`{hidden_units: [64, 32]}`.");
  v.Field(c.hidden_units, {.name = "hidden_units",
                           .min = 1,
                           .max = kMaxHiddenUnits,
                           .shorthand = true,
                           .foreign = {{"units"},
                                       {"dims"},
                                       {"hidden_dims"},
                                       {"hidden_sizes"},
                                       {"layers"},
                                       {"hidden_layers"},
                                       {"dnn_hidden_units"},
                                       {"hidden_size"}},
                           .doc = "Outputs of each layer."});
  v.Field(c.activation, {.name = "activation",
                         .choices = {"relu", "leaky_relu", "prelu", "gelu", "silu", "tanh", "sigmoid", "linear", "dice"},
                         .foreign = {{"act"}, {"dnn_activation"}, {"hidden_activation"}},
                         .doc = "After every layer. prelu: one slope a layer, first 0.25; dice: Zhou et al., KDD 2018 (DIN), with a "
                                "slope a unit, first 0, and statistics of the global batch."});
  v.Field(c.dropout_ratio,
          {.name = "dropout_ratio",
           .min = 0,
           .below = 1,
           .foreign = {{"dropout"}, {"dropout_rate"}, {"dnn_dropout"}, {"drop_rate"}, {"dropout_prob"}},
           .doc = "Share of units dropped in training: one number for all layers, or one a layer."});
  v.Field(c.use_bn, {.name = "use_bn",
                     .foreign = {{"bn"}, {"batch_norm"}, {"use_batch_norm"}, {"dnn_use_bn"}, {"batchnorm"}},
                     .doc = "Batch norm before each activation, over the global batch in sync mode."});
  v.Field(c.use_ln, {.name = "use_ln",
                     .foreign = {{"ln"}, {"layer_norm"}, {"use_layer_norm"}, {"layernorm"}},
                     .doc = "Layer norm before each activation; not with use_bn."});
}

template <class V>
void Describe(V& v, DenseInitializerConfig& c) {
  v.Title("dense initializer",
          "First values of the dense part's weights, drawn from (train.seed, the parameter's name). `initializer: xavier_normal` is short "
          "for `{type: xavier_normal}`. Biases begin with 0, but of linear.");
  v.Field(c.type, {.name = "type",
                   .choices = {"linear", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal", "uniform", "normal"},
                   .shorthand = true,
                   .foreign = {{"name"}, {"kind"}, {"method"}},
                   .doc = "linear: weights and biases U(-b, b), b = 1 / sqrt(inputs), as PyTorch's linear layers; xavier: Glorot and "
                          "Bengio 2010; kaiming: He et al. 2015, for relu; uniform: U(-scale, scale); normal: N(0, scale^2)."});
  v.Field(c.scale, {.name = "scale",
                    .max = 1e6,
                    .above = 0,
                    .applies = c.type == "uniform" || c.type == "normal",
                    .when = "type: uniform, normal",
                    .foreign = {{"std"}, {"stddev"}, {"init_std"}, {"range"}},
                    .doc = "Half the width of uniform, the standard deviation of normal."});
}

template <class V>
void Describe(V& v, ModelConfig& c) {
  v.Title("model",
          "The dense part: bottom, experts, gates and towers. Keys that the type has no use for are ignored, so "
          "that `--set model.type=shared_bottom` compares rankers.");
  v.Field(c.type,
          {.name = "type",
           .choices = {"single", "shared_bottom", "omoe", "mmoe", "ple", "esmm", "aitm"},
           .foreign = {{"name"}, {"model_name"}, {"model_type"}, {"arch"}, {"architecture"}, {"model"}},
           .doc = "single: an expert_mlp and a tower for each task, nothing shared; shared_bottom: one bottom, a "
                  "tower a task; omoe: experts under one gate that all tasks share; mmoe: a gate a task (Ma et "
                  "al., KDD 2018); ple: num_level levels of shared and of tasks' own experts (Tang et al., RecSys 2020; one level is "
                  "CGC); esmm: as single, the prediction of a task is the product of its probability and those of the tasks before it "
                  "(Ma et al., SIGIR 2018: click, then conversion); aitm: as single, with attention to what the task before hands "
                  "on (Xi et al., KDD 2021)."});
  v.Field(c.bottom_mlp, {.name = "bottom_mlp",
                         .foreign = {{"bottom"},
                                     {"shared_mlp"},
                                     {"shared_bottom"},
                                     {"bottom_dnn_hidden_units", "bottom_mlp.hidden_units"},
                                     {"dnn_hidden_units", "bottom_mlp.hidden_units"}},
                         .doc = "Under the experts; of shared_bottom the bottom itself. null: none, shared_bottom: "
                                "expert_mlp. Not single."});
  v.Field(c.num_expert, {.name = "num_expert",
                         .min = 0,
                         .max = kMaxExperts,
                         .foreign = {{"n_expert"},
                                     {"num_experts"},
                                     {"n_experts"},
                                     {"expert_num"},
                                     {"experts"},
                                     {"share_num"},
                                     {"shared_expert_num"},
                                     {"n_expert_shared"}},
                         .doc = "Experts that all tasks share. omoe, mmoe; ple: in each level, where 0 leaves tasks their own alone."});
  v.Field(c.num_task_expert, {.name = "num_task_expert",
                              .min = 0,
                              .max = kMaxExperts,
                              .foreign = {{"specific_expert_num"}, {"n_expert_specific"}, {"expert_num_per_task"}},
                              .doc = "Experts of each task, in each level. ple."});
  v.Field(c.num_level, {.name = "num_level",
                        .min = 1,
                        .max = kMaxLevels,
                        .foreign = {{"num_levels"}, {"n_level"}, {"n_levels"}, {"extraction_networks"}},
                        .doc = "Levels of experts, one over the other. ple."});
  v.Field(c.expert_mlp, {.name = "expert_mlp",
                         .foreign = {{"expert"},
                                     {"expert_params"},
                                     {"share_expert_net"},
                                     {"task_expert_net"},
                                     {"expert_dnn_hidden_units", "expert_mlp.hidden_units"},
                                     {"expert_hidden_units", "expert_mlp.hidden_units"}},
                         .doc = "Each expert. omoe, mmoe, ple; single, esmm, aitm: under each tower."});
  v.Field(c.gate_mlp, {.name = "gate_mlp",
                       .foreign = {{"gate"},
                                   {"gate_params"},
                                   {"gate_dnn_hidden_units", "gate_mlp.hidden_units"},
                                   {"gate_hidden_units", "gate_mlp.hidden_units"}},
                       .doc = "Under each gate's last linear map. null: the gate is one linear map. omoe, mmoe, ple."});
  v.Field(c.gate_bias, {.name = "gate_bias",
                        .foreign = {{"use_gate_bias"}},
                        .doc = "The gate's last linear map has a bias. omoe, mmoe, ple."});
  v.Field(c.gate_bn, {.name = "gate_bn",
                      .foreign = {{"gate_use_bn"}},
                      .doc = "Batch norm of a gate's logits. omoe, mmoe, ple."});
  v.Field(c.gate_features, {.name = "gate_features",
                            .foreign = {{"gate_inputs"}, {"gate_columns"}},
                            .doc = "Names and globs of the features that gates read instead of what their experts read. omoe, mmoe, ple."});
  v.Field(c.gate_dropout_ratio,
          {.name = "gate_dropout_ratio",
           .min = 0,
           .below = 1,
           .foreign = {{"gate_dropout"}, {"gate_dropout_rate"}, {"expert_dropout"}},
           .doc = "Share of experts that a gate leaves out of a sample in training; the others' weights sum to 1 (Zhao et al., RecSys "
                  "2019). A remedy for gates that collapse onto one expert. omoe, mmoe, ple."});
  v.Field(c.top_k, {.name = "top_k",
                    .min = 0,
                    .max = kMaxExperts,
                    .foreign = {{"topk"}, {"num_selected_experts"}, {"k"}},
                    .doc = "Experts that a gate keeps for a sample, those with the largest weights, which then sum to 1 (Shazeer et al., ICLR "
                           "2017); with 1 the weight stays what it is, as the gate would learn nothing else (Fedus et al., 2021). All are "
                           "computed. 0 = all. omoe, mmoe, ple."});
  v.Field(c.transfer_mlp, {.name = "transfer_mlp",
                           .foreign = {{"info_gate"}},
                           .doc = "What a task hands on to the next; its last layer is as wide as expert_mlp's. null: one such layer. aitm."});
  v.Field(c.tower_mlp,
          {.name = "tower_mlp",
           .foreign = {{"tower"},
                       {"tower_params"},
                       {"tower_params_list"},
                       {"tower_dnn_hidden_units", "tower_mlp.hidden_units"},
                       {"tower_hidden_units", "tower_mlp.hidden_units"}},
           .doc = "Each task's tower, under its last linear map to one logit. A task's own `mlp` replaces it."});
  v.Field(c.initializer, {.name = "initializer",
                          .foreign = {{"dense_initializer"}, {"kernel_initializer"}, {"init"}, {"init_std", "initializer.scale"}},
                          .doc = "First values of the weights."});
}

inline constexpr std::string_view kLossMeanings =
    "What a task minimizes: `bce`, `{focal: {gamma: 2, alpha: 0.5}}`, `{huber: 1}`, or a list. z: the tower's output, y: the label.\n\n"
    "| loss | meaning | prediction |\n| --- | --- | --- |\n"
    "| bce | binary cross entropy with logits, y 0 or 1 | 1 / (1 + exp(-z)) |\n"
    "| focal | -alpha_y (1 - p_y)^gamma log p_y, p_y the probability of the label (Lin et al. 2017) | as bce |\n"
    "| mse | (z - y)^2 | z |\n"
    "| mae | abs(z - y) | z |\n"
    "| huber | (z - y)^2 / 2 up to delta, delta (abs(z - y) - delta / 2) beyond (Huber 1964) | z |\n"
    "| watch_time | weighted logistic: y log(1 + exp(-z)) where y > 0, log(1 + exp(z)) where y = 0, so that the odds are the expected "
    "watch time (Covington et al. 2016); y at least 0 | exp(z) |";

// What others call losses.
inline std::vector<Foreign> ForeignLosses() {
  return {{"binary_crossentropy", "bce"},
          {"binary_cross_entropy", "bce"},
          {"logloss", "bce"},
          {"log_loss", "bce"},
          {"binary", "bce"},
          {"classification", "bce"},
          {"bcewithlogits", "bce"},
          {"focal_loss", "focal"},
          {"binary_focal_loss", "focal"},
          {"l2", "mse"},
          {"l2_loss", "mse"},
          {"regression", "mse"},
          {"mean_squared_error", "mse"},
          {"l1", "mae"},
          {"l1_loss", "mae"},
          {"mean_absolute_error", "mae"},
          {"smooth_l1", "huber"},
          {"huber_loss", "huber"},
          {"wce", "watch_time"},
          {"weighted_logistic", "watch_time"},
          {"weighted_lr", "watch_time"}};
}

// What stands beside a loss's type. The types themselves are the choices of a task's `loss`.
template <class V>
void Describe(V& v, LossConfig& c) {
  v.Title("loss", kLossMeanings);
  v.Field(c.weight, {.name = "weight", .min = 0, .max = 1e6, .doc = "Of this loss in the task's sum."});
  v.Field(c.label_smoothing, {.name = "label_smoothing",
                              .min = 0,
                              .below = 1,
                              .applies = c.is_binary(),
                              .when = "bce, focal",
                              .doc = "e: labels become y (1 - e) + e / 2."});
  const bool is_focal = c.type == "focal";
  v.Field(c.gamma, {.name = "gamma",
                    .min = 0,
                    .max = 100,
                    .applies = is_focal,
                    .when = "focal",
                    .doc = "How much less samples weigh that are predicted well; 0 = not."});
  v.Field(c.alpha, {.name = "alpha",
                    .min = 0,
                    .max = 1,
                    .applies = is_focal,
                    .when = "focal",
                    .doc = "Weight of positives; negatives have 1 - alpha."});
  v.Field(c.delta, {.name = "delta",
                    .max = 1e6,
                    .above = 0,
                    .shorthand = c.type == "huber",
                    .applies = c.type == "huber",
                    .when = "huber",
                    .foreign = {{"beta"}},
                    .doc = "Where the loss becomes linear. `{huber: 2}` is short for `{huber: {delta: 2}}`."});
}

inline constexpr std::string_view kMetricMeanings =
    "What is measured of a task, over every sample of all workers, each counted once: `auc`, `{gauc: user_id}`, "
    "`{ndcg: {by: user_id, k: 10}}`. The value is null where it is undefined.\n\n"
    "| metric | meaning | loss |\n| --- | --- | --- |\n"
    "| auc | area under the ROC curve, ties at half; null with one class only | binary |\n"
    "| gauc | mean AUC of the groups, weighted by their samples; groups with one class only are left out, null when all are "
    "| binary |\n"
    "| logloss | mean of -log p(label) | binary |\n"
    "| ne | normalized entropy: logloss / entropy of the share of positives (He et al. 2014); null with one class only | binary |\n"
    "| calibration | sum of predictions / sum of labels, best at 1; null when the labels sum to 0 or less | any |\n"
    "| calibration_error | mean over samples of abs(mean prediction - mean label) of the bucket that the prediction is in; "
    "buckets have as many samples each (Naeini et al. 2015, Nixon et al. 2019) | any |\n"
    "| accuracy | share of samples with prediction > 0.5 where the label is 1, and not where it is 0 | binary |\n"
    "| rmse, mae | root of the mean squared, mean absolute difference | any |\n"
    "| xauc | share of pairs of samples with different labels whose predictions are ordered as the labels, ties at half; null "
    "without such a pair | any |\n"
    "| recall | positives among the k highest predictions of a group / its positives; mean over groups with a positive | binary |\n"
    "| ndcg | sum of label / log2(1 + rank) over the k highest predictions of a group / the most that its labels allow "
    "(J\u00e4rvelin and Kek\u00e4l\u00e4inen 2002, linear gain; a label below 0 gains 0); mean over groups with a label above 0 "
    "| any |\n\n"
    "In output and in early_stopping.monitor a metric has its type's name, recall and ndcg with their k: `gauc`, `ndcg@10`. "
    "Those of a task that would be called the same have their column or buckets behind it: `gauc(user_id)`, `gauc(item_id)`. "
    "calibration cannot be watched, for neither more nor less of it is better.";

// What others call metrics.
inline std::vector<Foreign> ForeignMetrics() {
  return {{"auc_score", "auc"},
          {"roc_auc", "auc"},
          {"roc_auc_score", "auc"},
          {"group_auc", "gauc"},
          {"grouped_auc", "gauc"},
          {"gauc_score", "gauc"},
          {"user_auc", "gauc"},
          {"uauc", "gauc"},
          {"log_loss", "logloss"},
          {"bce", "logloss"},
          {"binary_crossentropy", "logloss"},
          {"binary_cross_entropy", "logloss"},
          {"cross_entropy", "logloss"},
          {"normalized_entropy", "ne"},
          {"normalised_entropy", "ne"},
          {"normalized_cross_entropy", "ne"},
          {"pcoc", "calibration"},
          {"copc", "calibration, which is 1 / COPC"},
          {"ece", "calibration_error"},
          {"expected_calibration_error", "calibration_error"},
          {"acc", "accuracy"},
          {"accuracy_score", "accuracy"},
          {"mse", "rmse, its root"},
          {"mean_squared_error", "rmse, its root"},
          {"root_mean_squared_error", "rmse"},
          {"mean_absolute_error", "mae"},
          {"mape", "mae: gatemill has no relative error"},
          {"recall_at_k", "recall"},
          {"recall@k", "{recall: {by: COLUMN, k: 10}}"},
          {"recall@10", "{recall: {by: COLUMN, k: 10}}"},
          {"hit", "recall, which is the same where groups have one positive"},
          {"hitrate", "recall, which is the same where groups have one positive"},
          {"hit_rate", "recall, which is the same where groups have one positive"},
          {"hr", "recall, which is the same where groups have one positive"},
          {"ndcg_score", "ndcg"},
          {"ndcg_at_k", "ndcg"},
          {"ndcg@k", "{ndcg: {by: COLUMN, k: 10}}"},
          {"ndcg@10", "{ndcg: {by: COLUMN, k: 10}}"}};
}

// What stands beside a metric's type. The types themselves are the choices of a task's `metrics`.
template <class V>
void Describe(V& v, MetricConfig& c) {
  v.Title("metric", kMetricMeanings);
  v.Field(c.by, {.name = "by",
                 .shorthand = c.has_groups(),
                 .applies = c.has_groups(),
                 .when = "gauc, recall, ndcg",
                 .foreign = {{"group"}, {"group_by"}, {"groups"}, {"group_key"}, {"grouping_key"}, {"column"}},
                 .doc = "Column whose values are the groups, often the user's id; it may be no feature. Samples without a value "
                        "are one group. `{gauc: user_id}` is short for `{gauc: {by: user_id}}`. Read for the validation and test "
                        "parts and by eval, 8 bytes a sample."});
  v.Field(c.k, {.name = "k",
                .min = 1,
                .max = 1'000'000,
                .applies = c.has_k(),
                .when = "recall, ndcg",
                .foreign = {{"top_k"}, {"topk"}, {"at"}, {"cutoff"}},
                .doc = "Predictions of a group that count: the highest, equal ones in the order of the data."});
  v.Field(c.buckets, {.name = "buckets",
                      .min = 1,
                      .max = kMaxBuckets,
                      .shorthand = c.type == "calibration_error",
                      .applies = c.type == "calibration_error",
                      .when = "calibration_error",
                      .foreign = {{"bins"}, {"n_bins"}, {"num_bins"}, {"num_buckets"}},
                      .doc = "Of as many samples each, within one. `{calibration_error: 20}` is short for "
                             "`{calibration_error: {buckets: 20}}`."});
}

template <class V>
void Describe(V& v, TaskConfig& c) {
  v.Title("task", "What is predicted, `tasks: {NAME: {...}}`; a map, so that `--set tasks.NAME.weight=2` works.");
  v.Field(c.label_name, {.name = "label_name",
                         .shorthand = true,
                         .foreign = {{"label"}, {"target"}, {"label_column"}, {"label_col"}, {"y"}},
                         .doc = "The label's column."});
  v.Field(c.loss, {.name = "loss",
                   .choices = {"bce", "focal", "mse", "mae", "huber", "watch_time"},
                   .foreign_choices = ForeignLosses(),
                   .foreign = {{"losses"}, {"loss_type"}, {"loss_fn"}, {"task_type"}, {"type"}, {"criterion"}},
                   .doc = "One or several, whose weighted sum is the task's; by default bce. Of one kind: bce and focal; mse, mae and huber; "
                          "watch_time alone."});
  v.Field(c.label_transform,
          {.name = "label_transform",
           .choices = {"none", "log1p"},
           .applies = !c.is_binary() && (c.loss.empty() || c.loss[0].type != "watch_time"),
           .when = "loss: mse, mae, huber",
           .foreign = {{"target_transform"}, {"label_trans"}},
           .doc = "log1p: the loss compares with log(1 + label), for labels of at least 0; predictions and metrics are in the label's own units."});
  v.Field(c.weight, {.name = "weight",
                     .min = 0,
                     .max = 1e6,
                     .foreign = {{"loss_weight"}, {"task_weight"}},
                     .doc = "Of this task's loss in the sum, after everything else."});
  v.Field(c.sample_weight, {.name = "sample_weight",
                            .foreign = {{"sample_weight_name"}, {"sample_weight_fields"}, {"weight_column"}},
                            .doc = "Column with this task's weight of each sample, times data.sample_weight; \"\": 1."});
  v.Field(c.task_space_indicator_label,
          {.name = "task_space_indicator_label",
           .foreign = {{"mask"}, {"mask_column"}, {"task_space"}},
           .doc = "Column that is above 0 where a sample is in the task's space, such as is_click for what happens after a click. \"\": "
                  "every sample is."});
  const bool has_space = !c.task_space_indicator_label.empty();
  v.Field(c.in_task_space_weight, {.name = "in_task_space_weight",
                                   .min = 0,
                                   .max = 1e6,
                                   .applies = has_space,
                                   .when = "task_space_indicator_label",
                                   .doc = "Weight of samples in the task's space."});
  v.Field(c.out_task_space_weight, {.name = "out_task_space_weight",
                                    .min = 0,
                                    .max = 1e6,
                                    .applies = has_space,
                                    .when = "task_space_indicator_label",
                                    .doc = "Weight of the others."});
  v.Field(c.task_space_reduction,
          {.name = "task_space_reduction",
           .choices = {"space", "batch"},
           .applies = has_space,
           .when = "task_space_indicator_label",
           .foreign = {{"mask_reduction"}},
           .doc = "With train.loss_reduction: mean the loss is divided by the sum of the task's weights in the global batch (space), or of all "
                  "samples' (batch), so that rare samples keep a small share."});
  v.Field(c.mlp, {.name = "mlp",
                  .foreign = {{"tower"}, {"tower_mlp"}, {"hidden_units", "mlp.hidden_units"}},
                  .doc = "The task's tower instead of model.tower_mlp."});
  v.Field(c.metrics, {.name = "metrics",
                      .choices = {"auc", "gauc", "logloss", "ne", "calibration", "calibration_error", "accuracy", "rmse", "mae",
                                  "xauc", "recall", "ndcg"},
                      .foreign_choices = ForeignMetrics(),
                      .foreign = {{"metric"}, {"eval_metrics"}, {"metrics_set"}},
                      .doc = "Over all workers' samples, exactly. By default of binary losses auc, logloss, else rmse, mae."});
}

// ---- training
// --------------------------------------------------------------------------------------------------------
template <class V>
void Describe(V& v, DenseOptimizerConfig& c) {
  v.Title("dense optimizer",
          "Optimizer of experts, gates and towers, with PyTorch's formulas. `dense_optimizer: adamw` is "
          "short for `{type: adamw}`.");
  v.Field(c.type, {.name = "type",
                   .choices = {"adam", "adamw", "adagrad", "sgd"},
                   .shorthand = true,
                   .foreign = {{"name"}, {"kind"}, {"optimizer"}},
                   .doc = "As in PyTorch."});
  v.Field(c.lr, {.name = "lr",
                 .max = 1e6,
                 .above = 0,
                 .foreign = {{"learning_rate"}, {"lr_rate"}, {"rate"}, {"step_size"}},
                 .doc = "Learning rate."});
  v.Field(c.weight_decay, {.name = "weight_decay",
                           .min = 0,
                           .max = 1e6,
                           .foreign = {{"l2"}, {"l2_reg"}, {"l2_reg_dnn"}, {"l2_reg_linear"}, {"wd"}, {"decay"}},
                           .doc = "adamw: decoupled; others: times the parameter, added to the gradient."});
  const bool is_adam = c.type == "adam" || c.type == "adamw";
  if constexpr (V::kReads) c.eps = c.type == "adagrad" ? 1e-10 : 1e-8;
  v.Field(c.beta1, {.name = "beta1",
                    .min = 0,
                    .below = 1,
                    .applies = is_adam,
                    .when = "type: adam, adamw",
                    .foreign = {{"beta_1"}, {"betas"}},
                    .doc = "Decay of the first moment."});
  v.Field(c.beta2, {.name = "beta2",
                    .min = 0,
                    .below = 1,
                    .applies = is_adam,
                    .when = "type: adam, adamw",
                    .foreign = {{"beta_2"}},
                    .doc = "Decay of the second moment."});
  v.Field(c.eps, {.name = "eps",
                  .max = 1,
                  .above = 0,
                  .applies = c.type != "sgd",
                  .when = "type: adam, adamw, adagrad",
                  .foreign = {{"epsilon"}},
                  .doc = "Added to the root; by default 1e-8, adagrad 1e-10."});
  v.Field(c.momentum, {.name = "momentum",
                       .min = 0,
                       .below = 1,
                       .applies = c.type == "sgd",
                       .when = "type: sgd",
                       .doc = "Share of the last update that is kept."});
  v.Field(c.initial_accumulator, {.name = "initial_accumulator",
                                  .min = 0,
                                  .max = 1e6,
                                  .applies = c.type == "adagrad",
                                  .when = "type: adagrad",
                                  .foreign = {{"initial_accumulator_value"}, {"init_accumulator"}},
                                  .doc = "First value of the sum of squares."});
}

template <class V>
void Describe(V& v, EarlyStoppingConfig& c) {
  v.Title("early stopping", "Ends training when the validation part gets no better. The best checkpoint is kept.");
  v.Field(c.monitor, {.name = "monitor",
                      .foreign = {{"metric"}, {"watch"}, {"monitor_metric"}},
                      .doc = "TASK.METRIC, mean(METRIC) over the tasks that have it, or loss."});
  v.Field(c.patience, {.name = "patience",
                       .min = 1,
                       .max = 1'000'000,
                       .foreign = {{"early_stop_patience"}, {"rounds"}, {"epochs"}},
                       .doc = "Epochs without improvement before training stops."});
  v.Field(c.min_delta, {.name = "min_delta",
                        .min = 0,
                        .max = 1e6,
                        .foreign = {{"delta"}, {"tolerance"}},
                        .doc = "A smaller change is no improvement."});
}

template <class V>
void Describe(V& v, CheckpointConfig& c) {
  v.Title("checkpoint", "When the run is saved. The best is always kept when there is a validation part.");
  v.Field(c.every_epochs, {.name = "every_epochs",
                           .min = 0,
                           .max = 1'000'000,
                           .foreign = {{"save_epochs"}, {"epochs"}, {"period"}},
                           .doc = "0 = by steps or minutes, or only the last."});
  v.Field(c.every_steps, {.name = "every_steps",
                          .min = 0,
                          .foreign = {{"save_steps"}, {"save_every"}, {"checkpoint_steps"}, {"steps"}, {"interval"}},
                          .doc = "0 = not by steps."});
  v.Field(c.every_minutes, {.name = "every_minutes",
                            .min = 0,
                            .max = 1e6,
                            .foreign = {{"save_minutes"}, {"minutes"}, {"save_checkpoints_secs", "every_minutes: MINUTES"}},
                            .doc = "Minutes since the last one was begun, and none is being written; 0 = not by time."});
  v.Field(c.keep, {.name = "keep",
                   .min = 1,
                   .max = 1'000'000,
                   .foreign = {{"max_to_keep"}, {"keep_last"}, {"save_total_limit"}},
                   .doc = "The newest so many are kept, beside the best."});
}

template <class V>
void Describe(V& v, TrainConfig& c) {
  v.Title("train", "How it learns.");
  v.Field(c.seed, {.name = "seed", .foreign = {{"random_seed"}, {"random_state"}}, .doc = "Of every random draw."});
  v.Field(c.num_epochs, {.name = "num_epochs",
                         .min = 1,
                         .max = 1'000'000,
                         .foreign = {{"epochs"}, {"epoch"}, {"n_epoch"}, {"n_epochs"}, {"max_epochs"}, {"num_epoch"}},
                         .doc = "Times every sample is used."});
  v.Field(c.max_steps, {.name = "max_steps",
                        .min = 0,
                        .foreign = {{"num_steps"}, {"total_steps"}, {"steps"}, {"max_iter"}},
                        .doc = "Ends training after so many steps; 0 = no limit."});
  v.Field(c.global_batch_size, {.name = "global_batch_size",
                                .min = 1,
                                .max = kMaxBatch,
                                .foreign = {{"batch_size"}, {"batch"}, {"bs"}, {"train_batch_size"}, {"batchsize"}},
                                .doc = "Samples a step, summed over workers."});
  v.Field(c.eval_batch_size, {.name = "eval_batch_size",
                              .min = 1,
                              .max = kMaxBatch,
                              .foreign = {{"test_batch_size"}, {"valid_batch_size"}, {"predict_batch_size"}},
                              .doc = "Samples of each worker at a time in evaluation."});
  v.Field(c.loss_reduction, {.name = "loss_reduction",
                             .choices = {"mean", "sum"},
                             .foreign = {{"reduction"}, {"loss_agg"}},
                             .doc = "mean: a step's loss is the weighted mean over the global batch; sum: the weighted sum, so that "
                                    "gradients grow with the batch."});
  v.Field(c.device, {.name = "device",
                     .choices = {"auto", "cpu", "cuda"},
                     .foreign = {{"gpu"}, {"use_gpu"}, {"accelerator"}, {"gpus"}},
                     .doc = "auto: a GPU if there is one."});
  v.Field(c.threads,
          {.name = "threads",
           .min = 1,
           .max = 1024,
           .foreign = {{"num_threads"}, {"n_threads"}, {"nthreads"}, {"num_workers"}, {"n_jobs"}},
           .doc = "Compute threads of each worker. Never derived from the machine: other numbers give other bits."});
  v.ConsistencyField(
      c.consistency, c.staleness,
      {.name = "consistency",
       .foreign = {{"mode"}, {"sync"}, {"sync_mode"}, {"async"}, {"staleness", "consistency: {bounded: K}"}},
       .doc = "sync: a step sees every push of the last; {bounded: K}: at most K steps behind; async: no "
              "waiting."});
  v.Field(c.dense_optimizer, {.name = "dense_optimizer",
                              .foreign = {{"optimizer"}, {"dense_opt"}, {"optimizer_params"}, {"optimizer_fn"}},
                              .doc = "Of experts, gates and towers."});
  v.Field(c.sparse_optimizer, {.name = "sparse_optimizer",
                               .foreign = {{"embedding_optimizer"}, {"sparse_opt"}},
                               .doc = "Of embedding rows, but for tables with one of their own."});
  v.Field(c.early_stopping, {.name = "early_stopping",
                             .foreign = {{"early_stop"}, {"earlystop"}, {"earlystopping"}},
                             .doc = "null: all epochs run."});
  v.Field(c.checkpoint, {.name = "checkpoint",
                         .foreign = {{"checkpoints"}, {"ckpt"}, {"save"}, {"saving"}},
                         .doc = "When the run is saved."});
  v.Field(c.log_every_steps, {.name = "log_every_steps",
                              .min = 1,
                              .max = 1'000'000'000,
                              .foreign = {{"log_steps"}, {"log_interval"}, {"log_every"}, {"verbose"}},
                              .doc = "Steps between lines of metrics.jsonl."});
}

template <class V>
void Describe(V& v, PsConfig& c) {
  v.Title("ps", "The parameter servers.");
  v.Field(c.transport, {.name = "transport",
                        .choices = {"auto", "inproc", "ipc", "tcp"},
                        .foreign = {{"protocol"}},
                        .doc = "auto: inproc alone, ipc on one host, tcp between hosts."});
  v.Field(c.encryption, {.name = "encryption",
                         .choices = {"auto", "on", "off"},
                         .foreign = {{"curve"}, {"tls"}, {"ssl"}},
                         .doc = "CURVE over tcp; auto: between hosts."});
  v.Field(c.wire, {.name = "wire",
                   .choices = {"fp32", "fp16", "bf16"},
                   .foreign = {{"wire_dtype"}, {"comm_dtype"}, {"comm_precision"}},
                   .doc = "As what rows and gradients travel; 16 bits halve the bytes and round to nearest, in process too, "
                          "so that a result does not depend on the transport. Servers sum fp32."});
  v.Field(c.threads, {.name = "threads",
                      .min = 1,
                      .max = 256,
                      .foreign = {{"num_threads"}, {"shards"}, {"num_shards"}},
                      .doc = "Shards of each server, a thread each."});
  v.Field(c.memory_budget, {.name = "memory_budget",
                            .min = 0,
                            .bytes = true,
                            .foreign = {{"memory"}, {"memory_limit"}, {"max_memory"}, {"cache_size"}, {"mem_budget"}},
                            .doc = "Memory of each server for rows, their index, caches and buffers; rows that it has no room "
                                   "for, the coldest, are kept in ps.dir and come back when they are needed (of eval and predict, without "
                                   "ps.dir: in the system's directory for temporary files). 0: no limit."});
  v.Field(c.deadline_ms, {.name = "deadline_ms",
                          .min = 1,
                          .max = 86'400'000,
                          .foreign = {{"timeout"}, {"timeout_ms"}, {"deadline"}},
                          .doc = "A request without an answer for so many milliseconds fails and names the server."});
  v.Field(c.dir, {.name = "dir",
                  .foreign = {{"path"}, {"working_dir"}, {"rocksdb_dir"}},
                  .doc = "Working directory of RocksDB; each server has a directory of its own in it. \"\": RUN/ps-RANK."});
}

template <class V>
void Describe(V& v, Config& c) {
  v.Title("config", "The sections of a configuration.");
  v.Field(c.data,
          {.name = "data", .foreign = {{"dataset"}, {"datasets"}, {"input"}}, .doc = "Files and how to read them."});
  v.Field(c.tables, {.name = "tables",
                     .foreign = {{"embeddings"}, {"embedding_tables"}},
                     .doc = "Embedding tables that are shared or not default, by name."});
  v.Field(c.features, {.name = "features",
                       .foreign = {{"slots"}, {"feature_columns"}, {"feature_config"}, {"inputs"}, {"fields"}},
                       .doc = "What the model sees."});
  v.Field(c.model, {.name = "model", .foreign = {{"network"}, {"net"}}, .doc = "The ranker."});
  v.Field(c.tasks, {.name = "tasks",
                    .foreign = {{"task"}, {"targets"}, {"labels"}, {"task_names"}, {"task_types"}, {"label_columns"}},
                    .doc = "What is predicted, by name."});
  v.Field(c.train,
          {.name = "train", .foreign = {{"training"}, {"trainer"}, {"optimization"}}, .doc = "How it learns."});
  v.Field(c.ps,
          {.name = "ps", .foreign = {{"parameter_server"}, {"server"}, {"servers"}}, .doc = "The parameter servers."});
}

// A struct that Describe describes.
struct NullVisitor {
  static constexpr bool kReads = false;
  void Title(std::string_view, std::string_view) {}
  template <class T>
  void Field(T&, const Key&) {}
  void ConsistencyField(Consistency&, int&, const Key&) {}
};
template <class T>
concept Section = requires(NullVisitor& v, T& c) {
  Describe(v, c);
};
// Sections written as a map from their names.
template <class T>
concept NamedSection = Section<T> &&(std::same_as<T, TableConfig> || std::same_as<T, TaskConfig>);
// Sections written by their member `type`, which is none of their keys: TYPE alone, or {TYPE: {...}}. The types are the choices
// of the key that holds them.
template <class T>
concept TypedSection = Section<T> &&(std::same_as<T, MetricConfig> || std::same_as<T, LossConfig>);

}  // namespace gatemill
