// Configurations that the configuration's tests share.
#pragma once

#include <string>

#include "common/config.h"

namespace gatemill {

// A legal configuration of a few lines; `more` is appended.
inline std::string SmallYaml(const std::string& more = "") {
  return R"(data:
  root: /data
  train: train.csv
  valid: valid.csv
features:
  - {columns: [user_id, item_id], type: sparse, embedding_dim: 8}
  - {columns: age, type: dense, transform: [log1p, minmax]}
tasks:
  click: {label_name: is_click}
  like: {label_name: is_like}
)" + more;
}

// The message of ParseConfig's failure, or "" when it did not fail.
inline std::string Mistake(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  const Result<Config> config = ParseConfig(yaml, "c.yaml", overrides);
  if (config.ok()) return "";
  return config.status().code() == Code::kInvalidInput ? config.status().message() : "another code";
}

// A census ranker: every column in one of two entries.
inline const std::string kCensusYaml = R"(
data:
  root: ${GATEMILL_TEST_DATA:-../shared/data}/census-income
  train: train.csv.gz
  valid: valid.csv.gz
  test: test.csv.gz
  missing: ["?", ""]
features:
  - type: dense
    columns: [age, wage_per_hour, capital_gains]
    transform: [log1p, minmax]
  - type: sparse
    columns: [class_worker, det_ind_code, year]
    embedding_dim: 8
model:
  type: mmoe
  num_expert: 8
  expert_mlp: {hidden_units: [64, 32], activation: relu, dropout_ratio: 0.1}
  gate_mlp: null
tasks:
  income:        {label_name: income, loss: bce, mlp: {hidden_units: [16]}, metrics: [auc, logloss]}
  never_married: {label_name: never_married, loss: bce, mlp: {hidden_units: [16]}, metrics: [auc, logloss]}
train:
  seed: 1
  num_epochs: 20
  global_batch_size: 1024
  dense_optimizer: {type: adam, lr: 0.001}
  sparse_optimizer: {type: rowwise_adagrad, lr: 0.02}
  early_stopping: {monitor: mean(auc), patience: 3}
)";

// A video ranker: shared tables, lists, buckets, a filter, bounded consistency.
inline const std::string kVideoYaml = R"(
data:
  root: ${GATEMILL_TEST_DATA:-../shared/data}/kuairand
  train: {files: train.csv.gz, where: "date < 20220429"}
  valid: {files: [train.csv.gz], where: "date == 20220429"}
  test: valid.csv.gz
  missing: [""]
tables:
  user:  {embedding_dim: 16, oov_buckets: 64}
  video: {embedding_dim: 16, optimizer: {type: ftrl, l1: 0.1}, initializer: normal}
  range: {embedding_dim: 4}
features:
  - {columns: user_id, type: sparse, table: user}
  - {columns: video_id, type: sparse, table: video}
  - {columns: [author_id, music_id], type: sparse, embedding_dim: 16, oov_buckets: 64}
  - {columns: [follow_user_num_range, fans_user_num_range], type: sparse, table: range}
  - {columns: tag, type: sparse, separator: "|", pooling: mean, max_length: 8, embedding_dim: 8}
  - {columns: "onehot_feat*", type: sparse, embedding_dim: 4}
  - {columns: duration_ms, type: dense, transform: [log1p, zscore]}
  - {columns: duration_ms, name: duration_bucket, type: sparse, bucketize: {quantiles: 32}, embedding_dim: 8}
model:
  type: mmoe
  bottom_mlp: {hidden_units: [256]}
  num_expert: 4
  expert_mlp: {hidden_units: [128, 64], use_bn: false, dropout_ratio: [0.1, 0.1]}
  gate_mlp: {hidden_units: [32]}
  tower_mlp: {hidden_units: [64]}
tasks:
  click:     {label_name: is_click, loss: bce, metrics: [auc]}
  play_time: {label_name: play_time_ms, loss: mse, weight: 0.3}
train:
  consistency: {bounded: 2}
  num_epochs: 1
  global_batch_size: 2048
  dense_optimizer: {type: adamw, lr: 0.001, weight_decay: 1.0e-4}
  sparse_optimizer: {type: adagrad, lr: 0.02, initial_accumulator: 0.1}
)";

}  // namespace gatemill
