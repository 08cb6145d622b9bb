// The parameter server's part of a checkpoint on disk, and how it is read.
//
//   PS/shard-0001-of-0004/...           a RocksDB checkpoint per shard that wrote it (SST files, MANIFEST, CURRENT)
//   PS/shard-0001-of-0004.rows.json     how many rows it has, of each table and vshard
//   PS/tables.json                      the TableSpecs with their state sizes, seed, number of shards and days; format version
//
// A reader sees the union of the shards; who wrote which vshard does not matter, so any number of shards restores.
// Thread safety: one thread per reader.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "ps/day_log.h"
#include "ps/store/row_store.h"
#include "ps/table/table.h"

namespace gatemill::ps {

struct CheckpointTables {
  std::vector<TableSpec> specs;
  std::uint64_t seed = 0;
  std::uint32_t num_shards = 0;
  DayLog days = {};  // of a job with a table that counts days (TableSpec::eviction)
};

// Where shard `shard` of `num_shards` writes its part, below the checkpoint's ps directory.
std::string ShardDirName(std::uint32_t shard, std::uint32_t num_shards);
Status WriteCheckpointTables(const std::string& ps_dir, const CheckpointTables& tables);
// kInvalidInput when `ps_dir` is not the ps part of a checkpoint; kDataLoss when it is damaged.
Result<CheckpointTables> ReadCheckpointTables(const std::string& ps_dir);

// How many rows there are, of each table ([table number][vshard - vshards.first]).
struct RowCounts {
  VshardRange vshards;
  std::vector<std::vector<std::uint32_t>> tables;
};
// Beside a shard's directory in a checkpoint.
Status WriteRowCounts(const std::string& shard_dir, const RowCounts& counts);
// Of these vshards, whoever wrote them; none where an older program wrote the checkpoint. kDataLoss when they are damaged.
Result<std::optional<RowCounts>> ReadRowCounts(const std::string& ps_dir, const CheckpointTables& tables, VshardRange vshards);
// The shards' directories that have rows of these vshards.
std::vector<RowStore::Source> SourcesOf(const std::string& ps_dir, const CheckpointTables& tables, VshardRange vshards);

class CheckpointReader {
 public:
  static Result<std::unique_ptr<CheckpointReader>> Open(const std::string& ps_dir);
  virtual ~CheckpointReader() = default;
  [[nodiscard]] virtual const CheckpointTables& tables() const = 0;
  // Every row of table number `table` with first_vshard <= vshard < end_vshard, ascending (vshard, key).
  virtual Status Scan(std::uint32_t table, std::uint32_t first_vshard, std::uint32_t end_vshard,
                      const RowStore::VisitRow& visit) = 0;
  // One row; false when there is none. values: [dim + state_dim] out.
  virtual Result<bool> Get(std::uint32_t table, std::uint64_t key, std::vector<float>* values, RowHeader* header) = 0;
  [[nodiscard]] virtual Result<std::uint64_t> CountRows(std::uint32_t table) = 0;
};

}  // namespace gatemill::ps
