// What the model sees: the configuration's feature entries resolved against the columns of the data.
//
// An entry may stand for many columns (lists, globs); here each feature is one item, in the order of x:
// x = [pooled embeddings of sparse features, in entry order | dense features, in entry order].
//
// Thread safety: values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "ps/table/table.h"

namespace gatemill::data {

struct SparseFeature {
  std::string name;
  std::string column;
  std::uint32_t table = 0;        // position in Schema::tables
  std::uint64_t salt = 0;         // of its table's name
  int dim = 0;                    // embedding_dim of its table
  int x_offset = 0;               // first column in x
  std::string separator;          // "" = one value a sample
  Pooling pooling = Pooling::kMean;
  int max_length = 0;             // 0 = all
  BucketizeConfig bucketize;      // a number becomes its bucket's id first
};

struct DenseFeature {
  std::string name;
  std::string column;
  std::vector<std::string> transform;  // log1p | minmax | zscore, in order
  BucketizeConfig bucketize;           // one-hot of the bucket; width = buckets
  int x_offset = 0;
  int width = 1;
};

// Columns [offset, offset + width) of x.
struct XRange {
  int offset = 0;
  int width = 0;
};

struct Table {
  std::string name;
  int dim = 0;
  std::uint64_t hash_buckets = 0;  // 0 = all 64 bits
  std::uint32_t oov_buckets = 0;
  double oov_ratio = 0.0;
  std::uint32_t oov_table = 0;     // position in Schema::server_tables of its companion, when oov_buckets > 0
  bool admits = false;             // values get a row only after some sightings (ps/retention.h)
};

struct Schema {
  std::vector<std::string> columns;      // of the files, in file order
  std::vector<SparseFeature> sparse;
  std::vector<DenseFeature> dense;
  std::vector<Table> tables;             // tables[i] is server_tables[i]
  std::vector<ps::TableSpec> server_tables;  // tables first, then the companions for oov, then those for sightings
  std::vector<TaskConfig> tasks;         // label columns, in task order
  std::string sample_weight;             // column, or ""
  std::vector<XRange> gate_columns;      // of the features model.gate_features names, ascending, none beside another
  std::vector<std::string> groups;       // columns whose values are the groups of metrics, each once; may be features too
  int sparse_dim = 0;                    // width of the embedding part of x
  int dense_dim = 0;                     // width of the dense part
  [[nodiscard]] int x_dim() const { return sparse_dim + dense_dim; }
};

// `columns`: of the data, see ReadColumnNames. kInvalidInput lists every mistake at once (file:line of the entry):
// unknown columns and features with the nearest known one, globs that match nothing, a column that is a label and a feature, two
// features that give one table different dims.
Result<Schema> ResolveSchema(const Config& config, const std::vector<std::string>& columns);

// The column names of the first file of data.train: its header line, or data.column_names.
Result<std::vector<std::string>> ReadColumnNames(const DataConfig& data);

}  // namespace gatemill::data
