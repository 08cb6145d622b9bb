// The tables of one shard: rows in memory and, when a memory budget has no room for all of them, the coldest on disk.
//
//   GM_ASSIGN_OR_RETURN(auto tables, TieredTables::Create(options, specs, std::move(store)));
//   GM_RETURN_IF_ERROR(tables->Read(number, keys, ReadMode::kTrain, {.rows = rows}));
//   GM_RETURN_IF_ERROR(tables->Update(number, keys, grads, step));
//
// Memory is a write-back cache over the store. A training read and an update bring the rows they need into memory (one
// sorted MultiGet for the keys that are missing; none while nothing is on disk), an eval read copies them from the store and
// leaves them there. When memory runs short a batch of the coldest rows goes: those that changed since they were last
// written are written as one sorted, ingested file, the others are forgotten. A row comes back bit for bit, header and
// optimizer state included, so results do not depend on the budget.
//
// Which rows are coldest is decided among all tables for a range of vshards at a time, the next range the next time: the
// files of one batch then overlap few others.
//
// A checkpoint is cut at once and written beside other calls: each ContinueCheckpoint does a piece of it. Until it is done nothing
// newer enters the store: rows that changed since the cut stay in memory, and where a budget has no room for that the rest of the
// checkpoint is done at once, by the call that needs the room.
//
// A restore takes a checkpoint's files over and reads no row: rows come in as they are asked for, as with a budget, and beside other
// calls each Refill brings some of the others, all of them or as many as a budget has room for. Of those for which it has none the
// store's blocks are read once, to find damage.
//
// Budget: bytes of index, rows, erased keys, the store's caches and writers, scratch and `buffered` together. Without one (0) everything
// comes into memory and stays there, and the store holds what was checkpointed.
//
// Errors are the store's (a full disk, a damaged file); after one in Update, Prefetch, Make or one of the erasing calls the
// rows are as they were before the piece of the call that failed. kInvalidInput when what the store needs for the rows on disk leaves no room for others.
// Damage that a Refill finds makes every call fail, until a restore or Clear succeeds.
// Thread safety: none.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/executor.h"
#include "common/status.h"
#include "ps/checkpoint.h"
#include "ps/cut_writer.h"
#include "ps/erased_keys.h"
#include "ps/store/row_store.h"
#include "ps/store_reader.h"
#include "ps/table/table.h"

namespace gatemill::ps {

struct TieredOptions {
  std::uint64_t seed = 1;
  VshardRange vshards = {};
  std::uint64_t memory_budget = 0;  // bytes; 0 = no limit
  std::uint32_t shards_of_server = 1;  // that have such a part of its budget each; messages name the whole
  PagePreparer* preparer = nullptr;  // of the tables' memory (ps/table/pages.h), which it adds to; outlives them
  Executor* executor = nullptr;      // writes checkpoints; outlives the tables; null = the caller's thread does
  Executor* reader = nullptr;        // reads rows that come back beside other calls; null = executor
  std::function<void()> on_progress = {};  // there is more to do; called on the executors' threads
};

struct CheckpointReport {
  std::string dir;
  bool done = false;
  std::uint64_t rows_written = 0;  // so far: of those that had changed since the last
  std::uint64_t bytes_copied = 0;  // so far: of the store's files, where the checkpoint is on another disk
  Status status = {};              // once it is done
};

// Of one table, rows of both tiers.
struct TieredTableStats {
  TableStats memory;
  std::uint64_t rows = 0;
};

// Which of a vshard's rows go first when it has too many.
enum class EvictionOrder : std::uint8_t {
  kLeastRecent,  // last trained longest ago
  kLeastOften,   // trained least often; of equal ones the least recent
};

// Of a table since it was made.
struct SpillStats {
  std::uint64_t faulted_rows = 0;  // came back from the store
  std::uint64_t written_rows = 0;  // went to the store to make room
  std::uint64_t dropped_rows = 0;  // left memory, written or as the store had them already
};

inline constexpr std::uint32_t kNotSaved = ~0U;  // a table that a checkpoint does not have

class TieredTables {
 public:
  // Of a budget, what the store's caches may take.
  static std::uint64_t StoreCacheBytes(std::uint64_t memory_budget) { return memory_budget / 64; }

  // The smallest budget of a shard, in bytes, with which tables like these can begin over RocksDB. What is known of rows on disk
  // comes to it later. kInvalidInput for impossible specs.
  static Result<std::uint64_t> SmallestBudget(const std::vector<TableSpec>& specs);

  // kInvalidInput for impossible specs, and for a budget that leaves no room for rows.
  static Result<std::unique_ptr<TieredTables>> Create(const TieredOptions& options, const std::vector<TableSpec>& specs,
                                                      std::unique_ptr<RowStore> store);

  [[nodiscard]] const TableSpec& spec(std::uint32_t table) const { return tables_[table]->spec(); }
  [[nodiscard]] int state_dim(std::uint32_t table) const { return tables_[table]->state_dim(); }

  // As Table::Read. Of a table that admits keys only after some sightings an unseen key reads zeros in training too.
  Status Read(std::uint32_t table, std::span<const std::uint64_t> keys, ReadMode mode, const RowSink& out);
  // As Table::Update.
  Status Update(std::uint32_t table, std::span<const std::uint64_t> keys, std::span<const float> grads,
                std::uint64_t step);
  // Brings rows into memory that will be asked for soon. *room: bytes that rows may take, of which they are taken off; for
  // all tables of a step PrefetchRoom() in the beginning.
  Status Prefetch(std::uint32_t table, std::span<const std::uint64_t> keys, std::uint64_t* room);
  [[nodiscard]] std::uint64_t PrefetchRoom() const;
  // Rows as they are stored: values [n, dim + state_dim], headers [n], found [n] (1 where there is a row), all out.
  Status ReadStored(std::uint32_t table, std::span<const std::uint64_t> keys, std::span<float> values,
                    std::span<RowHeader> headers, std::span<std::uint8_t> found);

  // ---- keys that get and lose their rows for good (ps/retention.h says when)
  // Appends the positions in `keys` of those that have no row anywhere, in order.
  Status FindAbsent(std::uint32_t table, std::span<const std::uint64_t> keys, std::vector<std::uint32_t>* absent);
  // As Table::Make; keys that have a row nowhere.
  Status Make(std::uint32_t table, std::span<const std::uint64_t> keys, const RowHeader& header);
  // As Table::ReadHeaders, of rows that an update is to come for: those on disk are brought into memory.
  Status ReadHeaders(std::uint32_t table, std::span<const std::uint64_t> keys, std::span<RowHeader> headers,
                     std::span<std::uint8_t> found);
  // Every key must have a row, in memory or on disk, and come once.
  Status Erase(std::uint32_t table, std::span<const std::uint64_t> keys);
  // The next two are for tables with limits (spec().eviction); they return how many rows went. Erases the rows of a vshard
  // last updated before `step`.
  Result<std::uint64_t> EraseIdle(std::uint32_t table, std::uint32_t vshard, std::uint64_t step);
  // Erases rows of a vshard until `keep` are left. Ties are broken by the key.
  Result<std::uint64_t> EraseDownTo(std::uint32_t table, std::uint32_t vshard, std::uint64_t keep, EvictionOrder order);
  // Of a vshard.
  [[nodiscard]] std::uint64_t rows(std::uint32_t table, std::uint32_t vshard) const;

  // What waits or is on its way, and so takes from the budget, in bytes.
  void SetBuffered(std::uint64_t bytes) { buffered_bytes_ = bytes; }

  // Every row as it is now goes to a checkpoint directory of the store, which must not exist. kUnavailable while another is
  // under way. What fails later is told by the report and changes nothing: what was to be written still is, by the next one.
  Status BeginCheckpoint(const std::string& dir);
  // Is there something for ContinueCheckpoint to do? Else it waits for the executor.
  [[nodiscard]] bool CanContinueCheckpoint() const;
  // Looks at about so many rows more.
  void ContinueCheckpoint(std::uint64_t rows);
  // The last that was begun; none: without a directory, done.
  [[nodiscard]] CheckpointReport checkpoint() const;
  // The same at once. *rows_written: of those that had changed.
  Status WriteCheckpoint(const std::string& dir, std::uint64_t* rows_written);
  // All four give up a checkpoint under way (kCancelled), and bringing rows back beside other calls; rows are as they were when one
  // fails.
  // Replaces every row by those of checkpoints of the same tables, `counts` of them (of this shard's vshards). `step`: the next to
  // be updated.
  Status TakeOver(std::span<const RowStore::Source> sources, const RowCounts& counts, std::uint64_t step);
  // The same by reading and writing every row, whatever the tables' numbers are: numbers[t] is the reader's of table t or kNotSaved.
  Status Restore(CheckpointReader* reader, std::span<const std::uint32_t> numbers, std::uint64_t step);
  // As Restore, of embeddings alone: rows keep how often they were updated, their optimizers begin anew.
  Status WarmStart(CheckpointReader* reader, std::span<const std::uint32_t> numbers, std::uint64_t step);
  Status Clear();

  // Is there something for Refill to do? Else it waits for the executor, or there is nothing left.
  [[nodiscard]] bool CanRefill() const;
  // Takes up to so many rows.
  void Refill(std::uint64_t rows);
  // After each request: has some of the rows that stay on disk read, to find damage. So that takes its share of a busy shard's
  // time, and of a long one.
  void Scrub();

  [[nodiscard]] TieredTableStats stats(std::uint32_t table) const;
  [[nodiscard]] const SpillStats& spill_stats(std::uint32_t table) const { return spill_stats_[table]; }
  [[nodiscard]] SpillStats spill_stats() const;  // of all tables
  // Of both the tables and the store, as counted against the budget.
  [[nodiscard]] std::uint64_t memory_bytes() const;

 private:
  // A table's rows that are not in memory.
  struct OnDisk {
    std::uint64_t rows = 0;
    std::vector<std::uint32_t> vshard_rows;    // of each vshard
    std::vector<std::uint32_t> oldest_update;  // for a table with eviction, of each vshard: none of its rows was last updated before
    bool miscounted = false;                   // a row was found that the counts do not have

    void Add(std::uint64_t key, const RowHeader& header);
    void Take(std::uint64_t key);
  };

  TieredTables(const TieredOptions& options, std::vector<std::unique_ptr<Table>> tables, std::unique_ptr<RowStore> store);

  [[nodiscard]] bool limited() const { return limit_ != 0; }
  [[nodiscard]] std::size_t SliceOf(std::uint32_t table) const;
  [[nodiscard]] std::size_t CutPieceOf(std::uint32_t table) const;
  [[nodiscard]] std::uint64_t RowBytes(std::uint32_t table) const;
  // store_bytes: what the store takes beside its caches.
  [[nodiscard]] std::uint64_t LeastBudget(std::uint64_t store_bytes) const;
  [[nodiscard]] std::uint64_t TouchedBytes() const;
  [[nodiscard]] std::uint64_t FreeBytes() const;
  [[nodiscard]] std::uint64_t Limit(std::uint64_t share_percent) const;
  Status MakeRoom(std::uint32_t table, std::uint64_t rows);
  void ReturnFreeMemory(std::uint32_t table, std::uint64_t rows);
  Result<std::uint64_t> SpillColdest(std::uint64_t bytes);
  Status WriteDirty(std::span<const ColdRow> rows);
  void Drop(std::span<const ColdRow> rows);
  Status FaultIn(std::uint32_t table, std::span<const std::uint64_t> keys, bool want);
  Status ReadForEval(std::uint32_t table, std::span<const std::uint64_t> keys, const RowSink& out);
  template <typename Visit>
  Status FindOnDisk(std::uint32_t table, std::span<const std::uint64_t> keys, const Visit& visit);
  // A row that is read becomes one of table number `table`, by *values and *header.
  using ChangeRow = std::function<void(std::uint32_t table, std::vector<float>* values, RowHeader* header)>;
  Status ReplaceRows(CheckpointReader* reader, std::span<const std::uint32_t> numbers, std::uint64_t step, const ChangeRow& change);
  void StartOver(std::vector<OnDisk> rows, std::uint64_t step);
  [[nodiscard]] Status CheckCounts(std::uint32_t table) const;
  Status CheckStoredRow(std::uint32_t table, std::uint64_t key, std::span<const float> values) const;
  [[nodiscard]] std::vector<OnDisk> NothingOnDisk() const;
  [[nodiscard]] std::uint64_t CountersBytes() const;
  [[nodiscard]] ReadMode UnseenReads(std::uint32_t table, ReadMode mode) const;
  Status CollectHeaders(std::uint32_t table, std::uint32_t vshard, bool on_disk);
  Status EraseAfter(std::uint32_t table, std::uint32_t vshard, std::size_t kept, bool on_disk);
  [[nodiscard]] RowCounts CountRows() const;
  void BeginRefill();
  [[nodiscard]] bool HasNextPiece() const;
  StorePiece NextPiece();
  void AskNext();
  [[nodiscard]] bool HasRoomForPiece() const;
  void PutPiece(std::uint64_t rows);
  void EndRefill();
  void StopBackground();
  [[nodiscard]] bool IsErased(StoreKey key) const { return erased_.Contains(key) || cut_erased_.Contains(key); }
  void CopyCut(std::uint64_t rows);
  void EndCut(std::uint64_t rows);
  void FinishCheckpoint();

  enum class Phase : std::uint8_t {
    kNone,
    kCopying,  // rows of the cut are read, from cut_table_ and cut_vshard_ on
    kWriting,  // the writer is at work on them
    kEnding,   // tables learn that the store has them, or not, from cut_table_ on
  };

  TieredOptions options_;
  InlineExecutor here_;
  std::vector<std::unique_ptr<Table>> tables_;  // by number
  std::unique_ptr<RowStore> store_;             // every row that is not dirty, and older versions of dirty ones
  std::vector<OnDisk> on_disk_;                 // by number
  ErasedKeys erased_;                           // of rows that the store may have
  ErasedKeys cut_erased_;                       // those erased before the cut, while a checkpoint is under way
  std::uint64_t limit_ = 0;                     // for tables, store and buffers; 0 = none
  std::uint64_t buffered_bytes_ = 0;
  std::uint64_t last_step_ = 0;
  Status damage_;                               // that a refill found
  std::uint32_t next_vshard_ = 0;               // where the next batch of cold rows is looked for
  std::vector<SpillStats> spill_stats_;         // by number

  Phase phase_ = Phase::kNone;
  CheckpointReport report_;
  std::uint32_t cut_table_ = 0;
  std::uint32_t cut_vshard_ = 0;
  RowCounts cut_counts_;
  StoredRows cut_rows_;                // of cut_table_, not handed over yet
  std::unique_ptr<CutWriter> writer_;  // while a checkpoint is under way; goes before the store

  std::unique_ptr<StoreReader> reader_;  // while rows come back beside other calls; goes before the store
  std::uint32_t refill_table_ = 0;       // of the piece that is to be asked for next
  std::uint32_t refill_vshard_ = 0;
  double refill_share_ = 1.0;            // of the rows on disk, for which there is room
  bool scrubbing_ = false;               // what is read now is checked alone
  StorePiece piece_;                     // whose rows are put in place, from piece_at_ on
  std::size_t piece_at_ = 0;
  std::uint64_t store_version_ = 0;      // rows of a piece that was asked for before the last change may be old ones

  // Scratch.
  struct Lookup {
    std::uint32_t vshard;
    std::uint32_t position;
    std::uint64_t key;
  };
  struct FoundHeader {
    std::uint64_t key;
    RowHeader header;
    bool on_disk;
  };
  std::vector<ColdRow> cold_;
  std::vector<KeyedHeader> in_memory_;
  std::vector<FoundHeader> headers_;
  std::vector<std::uint64_t> erasing_;
  std::vector<std::uint32_t> absent_;
  std::vector<Lookup> lookups_;
  std::vector<StoreKey> store_keys_;
  std::vector<float> values_;
};

}  // namespace gatemill::ps
