// A table's rows of one shard, in memory: an index over arrays of rows.
//
// A row is an embedding of dim numbers, state_dim floats of optimizer state and a RowHeader (ps/table/row_memory.h says where).
// Embeddings are kept as TableSpec::dtype says; whoever reads or stores a row has floats of exactly their values. Updates
// round 16-bit ones stochastically, by draws that depend on (seed, table name, key, update count) alone.
// Lookups and inserts work on batches of keys, so that their memory accesses overlap (software prefetch).
// Every uint64 is a legal key. New rows are made from (seed, table name, key) alone, so a row's first value does not
// depend on when, where or by whom it is made.
//
//   auto table = Table::Create({.name = "user", .dim = 16}, seed);
//   table->Read(keys, ReadMode::kTrain, {.rows = rows});   // rows: [keys, dim]; unseen keys give their first value
//   table->Update(keys, grads, step);                      // creates unseen rows, then applies the optimizer once per key
//
// A table may be the upper part of a larger one whose cold rows are on disk (ps/tiered_tables.h): FindAbsent, PutStored,
// AddCold and Drop move rows between the two.
//
// A cut is the rows that had changed since the one before, as they were at one moment. It is taken at once and read piece by
// piece while the table goes on: a row that is not read yet is copied before its first later update.
//   table->BeginCut();
//   for (vshard : vshards) table->VisitCut(vshard, &rows);      // between them anything but BeginCut
//   while (!table->EndCut(written, 8192)) {}
//
// Reading never creates rows. Thread safety: none; a table belongs to its shard's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "ps/table/half.h"
#include "ps/table/optimizer.h"
#include "ps/table/row_index.h"
#include "ps/table/row_memory.h"

namespace gatemill::ps {

// What every server and worker of a job agrees on about a table. Its number is its position in the job's list.
struct TableSpec {
  std::string name;
  int dim = 0;  // numbers of an embedding, 1 to kMaxDim
  InitializerConfig initializer;
  SparseOptimizerConfig optimizer;
  std::uint32_t oov_rows = 0;  // rows of the companion table that unseen values share; 0 for a companion itself
  FloatType dtype = FloatType::kFloat32;  // as what embeddings are kept in memory
  AdmissionConfig admission = {};         // with min_count > 1 the job has a SightingsTable, too (ps/retention.h)
  EvictionConfig eviction = {};
};
inline constexpr std::uint64_t kMaxTableRows = 0xFFFFFFFF;  // of one shard; whoever calls Update stays below it

// The companion of a table with oov_buckets is an ordinary table named so; its keys are 0 to oov_buckets - 1.
std::string OovTableName(const std::string& table_name);
// The companion of a table with admission.min_count > 1: a row's update count says in how many steps its key was seen.
TableSpec SightingsTable(const TableSpec& table);
bool HoldsSightings(const TableSpec& table);  // is it such a companion, and no table of embeddings?
// The number of the companion of specs[table]; none when the job has none.
std::optional<std::uint32_t> FindSightings(const std::vector<TableSpec>& specs, std::uint32_t table);

enum class ReadMode : std::uint8_t {
  kTrain = 0,  // an unseen key reads the value that its row would start with
  kEval = 1,   // an unseen key reads zeros
};

struct TableStats {
  std::uint64_t rows = 0;
  std::uint64_t dirty_rows = 0;     // the store does not have them as they are
  std::uint64_t cut_bytes = 0;      // of rows copied for a cut
  std::uint64_t memory_bytes = 0;   // index, embeddings, headers and states, in whole pages
  std::uint64_t free_bytes = 0;     // of these, places of dropped rows; new rows take them
  std::uint64_t row_bytes = 0;      // of an embedding, header and state; the index takes kMaxIndexBytes more at most
};
inline constexpr std::uint64_t kMaxIndexBytes = 21;  // of a row
inline constexpr std::uint64_t kMaxPagesOfOneRow = 3 * 4096;  // a table's first row, in its index and arrays

// A row that may be dropped.
struct ColdRow {
  std::uint64_t key = 0;
  std::uint32_t row = 0;   // its number
  float age = 0.0F;        // steps since its last update, per update that it has had
  std::uint32_t table = 0;  // for the caller
  std::uint32_t last_step = 0;
  bool dirty = false;
};

struct KeyedHeader {
  std::uint64_t key = 0;
  RowHeader header;
};

// Rows as they are stored, one behind the other.
struct StoredRows {
  std::vector<std::uint64_t> keys;
  std::vector<RowHeader> headers;
  std::vector<float> values;  // [keys, dim + state_dim]

  void Clear() {
    keys.clear();
    headers.clear();
    values.clear();
  }
  [[nodiscard]] std::uint64_t memory_bytes() const {
    return keys.capacity() * sizeof(std::uint64_t) + headers.capacity() * sizeof(RowHeader) + values.capacity() * sizeof(float);
  }
};

// Where the rows of n keys go.
struct RowSink {
  std::span<float> rows = {};                   // [n, dim], or with places as many rows as they name
  std::span<std::uint8_t> found = {};           // 1 where the key has a row; empty = not asked for
  std::span<const std::uint32_t> places = {};   // key i's row and found go to places[i]; empty = to i
};

class Table {
 public:
  // `vshards`: of the keys that it will be asked for; others must not come. `preparer`: outlives the table; null = memory comes
  // when it is touched.
  static Result<std::unique_ptr<Table>> Create(const TableSpec& spec, std::uint64_t seed, VshardRange vshards = {},
                                               PagePreparer* preparer = nullptr);
  virtual ~Table() = default;

  // Keys may repeat.
  virtual void Read(std::span<const std::uint64_t> keys, ReadMode mode, const RowSink& out) const = 0;
  // keys: [n]; grads: [n, dim]. Creates rows that do not exist; runs the optimizer once per key. A key that comes twice
  // is updated twice, in order: callers sum its gradients first.
  virtual void Update(std::span<const std::uint64_t> keys, std::span<const float> grads, std::uint64_t step) = 0;

  // Makes rows with their first values, of keys that have none and are all different.
  virtual void Make(std::span<const std::uint64_t> keys, const RowHeader& header) = 0;

  // Of a table without rows: how many are to come by PutStored in the order of a store. Without it that takes quadratic time.
  virtual void Reserve(std::uint64_t rows) = 0;
  // One row as stored: embedding and state ([dim + state_dim]) and header. False when there is none.
  virtual bool ReadStored(std::uint64_t key, std::span<float> values, RowHeader* header) const = 0;
  // Puts a row in place that the store has (restore, or back from disk): replaces the row of that key. Not dirty afterwards. An embedding
  // that dtype does not have, which none of a table of this dtype is, becomes the nearest.
  // `wanted`: an update is to come, so AddCold passes it over once.
  virtual void PutStored(std::uint64_t key, std::span<const float> values, const RowHeader& header,
                         bool wanted = false) = 0;

  // Appends the positions in `keys` of those without a row here, in order. `want` marks the rows of the others as wanted.
  virtual void FindAbsent(std::span<const std::uint64_t> keys, bool want, std::vector<std::uint32_t>* absent) = 0;
  // Appends every row of a vshard that is not wanted, in no particular order, and marks none as wanted any more. A row is
  // the colder the larger its age is: hyperbolic caching (Blankstein et al., USENIX ATC 2017), with the time since the last
  // update for the time in the cache.
  virtual void AddCold(std::uint32_t vshard, std::uint64_t step, std::vector<ColdRow>* rows) = 0;
  // A row as stored, by its number. PrefetchRow ahead of it, that memory accesses overlap.
  virtual void PrefetchRow(std::uint32_t row) const = 0;
  virtual void CopyRow(std::uint32_t row, std::span<float> values, RowHeader* header) const = 0;
  // Forgets rows; their places are taken by the next new ones. No row number may stand twice.
  virtual void Drop(std::span<const ColdRow> rows) = 0;
  // Appends every row of a vshard, in no particular order.
  virtual void AddHeaders(std::uint32_t vshard, std::vector<KeyedHeader>* headers) = 0;
  enum class Erased : std::uint8_t { kNothing, kRow, kStoredRow };  // kStoredRow: the store may have it too
  virtual Erased Erase(std::uint64_t key) = 0;
  // The rows' headers, and found[i] = 0 for those of keys without one.
  virtual void ReadHeaders(std::span<const std::uint64_t> keys, std::span<RowHeader> headers,
                           std::span<std::uint8_t> found) const = 0;
  // Rows of a vshard.
  [[nodiscard]] virtual std::uint32_t rows(std::uint32_t vshard) const = 0;
  // Moves rows to the places of dropped ones and returns the memory: one pass over the index.
  virtual void Compact() = 0;

  // ---- a cut. BeginCut takes no longer however many rows there are; the last one must have ended.
  virtual void BeginCut() = 0;
  // Appends the cut's rows of a vshard to `rows`, in the order of their keys. Vshards in ascending order, each once. Returns how
  // many rows were looked at.
  virtual std::uint64_t VisitCut(std::uint32_t vshard, StoredRows* rows) = 0;
  // Looks at up to `rows` rows more; true when that was all. written: the store has the cut's rows now; else those, and whatever
  // was not read, are dirty as before. The same at every call.
  virtual bool EndCut(bool written, std::uint64_t rows) = 0;
  virtual void Clear() = 0;  // drops every row, and a cut

  [[nodiscard]] virtual const TableSpec& spec() const = 0;
  [[nodiscard]] virtual int state_dim() const = 0;
  [[nodiscard]] virtual TableStats stats() const = 0;
};

// The first value of a row: a pure function of its arguments. row: [spec.dim] out.
void InitialRow(const TableSpec& spec, std::uint64_t seed, std::uint64_t key, std::span<float> row);

}  // namespace gatemill::ps
