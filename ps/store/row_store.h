// Rows on disk: RocksDB behind an interface that speaks of tables, vshards and keys.
//
// RocksDB keys sort by (table number, vshard, key), big-endian; a value is [header | dim + state_dim floats],
// little-endian, with a format byte in front. Bulk writes go in as sorted SST files that are ingested (no WAL: a
// checkpoint is the durability point). A checkpoint is a directory of hard links made by RocksDB; it is never written to.
//
// A store takes over checkpoints of other stores whole, as files (Replace). Its vshards then lie in parts, one for each store
// that they came from (a RocksDB column family): a row is looked for, and written, in the part of its vshard alone, so that
// what else those files hold is not seen.
//
// Errors: kDataLoss for damaged files, kInvalidInput for a directory that is no store, kUnavailable for one that may not be
// read or when too many files are open, kInternal for a full or failing disk; messages name the path. Thread safety: one thread
// per store (which may use others), but that others may make, fill and finish a BulkWriter, Scan and call Checkpoint meanwhile;
// two of them must not write at a time, and nobody else may be in a call of a store that is replaced.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "common/status.h"
#include "ps/table/table.h"

namespace rocksdb {
class FileSystem;
}

namespace gatemill::ps {

struct StoreKey {
  std::uint32_t table = 0;
  std::uint64_t key = 0;
};

class RowStore {
 public:
  virtual ~RowStore() = default;

  // Rows and erased keys in ascending (table, vshard, key) order, each once: opened, filled, then ingested whole by Finish.
  class BulkWriter {
   public:
    virtual ~BulkWriter() = default;
    virtual Status Add(StoreKey key, std::span<const float> values, const RowHeader& header) = 0;
    virtual Status Erase(StoreKey key) = 0;  // of a row that may or may not be there
    virtual Status Finish() = 0;  // without it nothing of what was added is kept
  };
  virtual Result<std::unique_ptr<BulkWriter>> NewBulkWriter() = 0;
  // The same, but that Finish puts what was added in the place of everything there was; the store is as it was when it fails.
  virtual Result<std::unique_ptr<BulkWriter>> NewReplacement() = 0;

  // keys: [n]; visit(i, values, header) for each that exists, in any order. Keys in (table, vshard, key) order are found
  // faster.
  using VisitFound = std::function<void(std::size_t, std::span<const float>, const RowHeader&)>;
  virtual Status MultiGet(std::span<const StoreKey> keys, const VisitFound& visit) = 0;

  // Every row of `table` with first_vshard <= vshard < end_vshard, in (vshard, key) order. A non-ok status from
  // visit ends the scan and is returned.
  using VisitRow = std::function<Status(std::uint64_t key, std::span<const float>, const RowHeader&)>;
  virtual Status Scan(std::uint32_t table, std::uint32_t first_vshard, std::uint32_t end_vshard,
                      const VisitRow& visit) = 0;

  // Writes a checkpoint of everything ingested so far into `dir`, which must not exist. On another disk it copies files, which takes
  // as long as it takes: copied, unless null, is told after each piece how many bytes more, and a non-ok status from it ends
  // the checkpoint and is returned.
  using VisitCopied = std::function<Status(std::uint64_t bytes)>;
  virtual Status Checkpoint(const std::string& dir, const VisitCopied& copied) = 0;
  Status Checkpoint(const std::string& dir) { return Checkpoint(dir, nullptr); }

  // Puts the rows of checkpoints, which have num_tables tables, in the place of everything there was: of each source those of its
  // vshards. Their ranges do not overlap; none: an empty store. No row is read, so it takes no longer however many there are: files are linked,
  // those on another disk are copied. The store is as it was when it fails.
  struct Source {
    std::string dir;  // of a Checkpoint
    VshardRange vshards;
  };
  virtual Status Replace(std::span<const Source> sources, std::uint32_t num_tables) = 0;

  // What its caches, writers and the indexes and filters of its files take, in bytes; about 3 a row.
  [[nodiscard]] virtual std::uint64_t memory_bytes() const = 0;
};

// What a store of RocksDB takes for files being written and merged, about, whatever is in it.
inline constexpr std::uint64_t kRowStoreWriterBytes = 8ULL << 20;

struct RowStoreOptions {
  std::uint64_t cache_bytes = 16ULL << 20;  // of blocks
  int read_threads = 1;                     // of a MultiGet, the caller's included
  std::shared_ptr<rocksdb::FileSystem> file_system = {};  // that files are read and written through; null = the system's
};

// Scratch store of a running shard: whatever lies in `dir` is removed first.
Result<std::unique_ptr<RowStore>> CreateRowStore(const std::string& dir, const RowStoreOptions& options = {});
// A checkpoint, read-only: writing fails.
Result<std::unique_ptr<RowStore>> OpenRowStoreReadOnly(const std::string& dir);
// In memory, with the same behaviour: for simulations.
std::unique_ptr<RowStore> NewMemoryRowStore();

}  // namespace gatemill::ps
