#include "ps/tiered_tables.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "common/keys.h"
#include "ps/checkpoint.h"
#include "ps/table/half.h"
#include "ps/table/optimizer.h"

namespace gatemill::ps {
namespace {

constexpr std::size_t kMaxSlice = 8192;         // keys that are brought in and used before the next
constexpr std::uint64_t kSlicesInMemory = 16;   // a slice's rows take at most such a part of the limit
// Rows that go together: one file, so not too few; a pause, so not too many.
constexpr std::uint64_t kBatchBytes = 4ULL << 20;
constexpr std::uint64_t kBatchesInMemory = 16;
constexpr std::uint64_t kColdestOf = 4;         // of a range of vshards so many of its rows go
constexpr std::uint64_t kPrefetchPart = 4;      // rows of a prefetch take at most such a part of the limit
constexpr std::uint64_t kUsedPercent = 95;      // of the limit, by rows; what lies between is for free places
constexpr std::uint64_t kRefillPercent = 80;
// Of a budget, for scratch and for the process itself.
constexpr std::uint64_t kHeadroomPart = 16;
constexpr std::uint64_t kProcessBytes = 64ULL << 20;
constexpr std::uint64_t kProcessPart = 7;       // no more than such a part of a budget
constexpr std::size_t kRowsAhead = 8;
constexpr std::size_t kMaxErased = 1 << 15;     // keys that the store is not told of yet
constexpr std::size_t kCutPiece = 8192;         // rows of a cut that are handed over together
constexpr std::uint64_t kRefillPiece = 32768;   // rows that are read together, about
constexpr std::uint64_t kCutPiecesInMemory = 128;  // they take at most such a part of the limit

std::uint64_t Headroom(std::uint64_t budget) {
  return budget / kHeadroomPart + std::min(kProcessBytes, budget / kProcessPart);
}

// In which `bytes` are left beside the headroom and the store's caches.
std::uint64_t BudgetFor(std::uint64_t bytes) {
  std::uint64_t budget = 0;
  while (true) {
    const std::uint64_t needed = bytes + Headroom(budget) + TieredTables::StoreCacheBytes(budget);
    if (needed <= budget) return budget;
    budget = needed;
  }
}

// Rounded up: what a message asks for suffices, and what it names is what was asked for, though shards divide it.
std::uint64_t MiBUp(std::uint64_t bytes) { return (bytes + (1ULL << 20) - 1) >> 20; }
std::string InMiB(std::uint64_t mib) { return std::to_string(mib) + "MiB"; }

Result<std::vector<std::unique_ptr<Table>>> MakeTables(const TieredOptions& options, const std::vector<TableSpec>& specs) {
  std::vector<std::unique_ptr<Table>> tables;
  for (const TableSpec& spec : specs) {
    GM_ASSIGN_OR_RETURN(auto table, Table::Create(spec, options.seed, options.vshards, options.preparer));
    tables.push_back(std::move(table));
  }
  return tables;
}

auto StoreOrder(const ColdRow& row) { return std::tuple(row.table, VshardOf(row.key), row.key); }

}  // namespace

TieredTables::TieredTables(const TieredOptions& options, std::vector<std::unique_ptr<Table>> tables,
                           std::unique_ptr<RowStore> store)
    : options_(options),
      tables_(std::move(tables)),
      store_(std::move(store)),
      on_disk_(NothingOnDisk()),
      next_vshard_(options.vshards.first),
      spill_stats_(tables_.size()) {}

void TieredTables::OnDisk::Add(std::uint64_t key, const RowHeader& header) {
  const std::uint32_t vshard = VshardOf(key);
  ++rows;
  ++vshard_rows[vshard];
  if (!oldest_update.empty()) oldest_update[vshard] = std::min(oldest_update[vshard], header.last_step);
}

void TieredTables::OnDisk::Take(std::uint64_t key) {
  std::uint32_t& of_vshard = vshard_rows[VshardOf(key)];
  if (of_vshard == 0) {  // a checkpoint said that it has fewer than that
    miscounted = true;
    return;
  }
  --of_vshard;
  --rows;
}

std::vector<TieredTables::OnDisk> TieredTables::NothingOnDisk() const {
  std::vector<OnDisk> none(tables_.size());
  for (std::size_t t = 0; t < tables_.size(); ++t) {
    none[t].vshard_rows.assign(kNumVshards, 0);
    if (tables_[t]->spec().eviction == EvictionConfig()) continue;
    none[t].oldest_update.assign(kNumVshards, std::numeric_limits<std::uint32_t>::max());
  }
  return none;
}

Result<std::unique_ptr<TieredTables>> TieredTables::Create(const TieredOptions& options,
                                                           const std::vector<TableSpec>& specs,
                                                           std::unique_ptr<RowStore> store) {
  GM_ASSIGN_OR_RETURN(auto tables, MakeTables(options, specs));
  std::unique_ptr<TieredTables> made(new TieredTables(options, std::move(tables), std::move(store)));
  if (options.memory_budget == 0) return made;
  const std::uint64_t store_bytes = made->store_->memory_bytes();
  const std::uint64_t least = made->LeastBudget(store_bytes - std::min(store_bytes, StoreCacheBytes(options.memory_budget)));
  if (options.memory_budget < least) {
    return InvalidInput("a shard's memory budget of " + std::to_string(options.memory_budget) + " bytes is too small; it needs " +
                        std::to_string(least));
  }
  made->limit_ = options.memory_budget - Headroom(options.memory_budget);
  return made;
}

Result<std::uint64_t> TieredTables::SmallestBudget(const std::vector<TableSpec>& specs) {
  const TieredOptions options;
  GM_ASSIGN_OR_RETURN(auto tables, MakeTables(options, specs));
  return TieredTables(options, std::move(tables), NewMemoryRowStore()).LeastBudget(kRowStoreWriterBytes);
}

std::uint64_t TieredTables::LeastBudget(std::uint64_t store_bytes) const {
  std::uint64_t rows = 0;  // one of each table, with the pages that it touches
  for (std::uint32_t t = 0; t < tables_.size(); ++t) rows += tables_[t]->stats().memory_bytes + kMaxPagesOfOneRow + 4 * RowBytes(t);
  return BudgetFor(store_bytes + CountersBytes() + rows);
}

// ---- rows ---------------------------------------------------------------------------------------------------------------

// Before a key is admitted it has no value of its own.
ReadMode TieredTables::UnseenReads(std::uint32_t table, ReadMode mode) const {
  return spec(table).admission.min_count > 1 ? ReadMode::kEval : mode;
}

Status TieredTables::Read(std::uint32_t table, std::span<const std::uint64_t> keys, ReadMode mode, const RowSink& out) {
  if (!damage_.ok()) return damage_;
  if (on_disk_[table].rows == 0) {
    tables_[table]->Read(keys, UnseenReads(table, mode), out);
    return Ok();
  }
  const std::size_t slice = SliceOf(table);
  const auto dim = static_cast<std::size_t>(spec(table).dim);
  for (std::size_t begin = 0; begin < keys.size(); begin += slice) {
    const std::size_t n = std::min(slice, keys.size() - begin);
    RowSink part = out;
    if (!out.places.empty()) {
      part.places = out.places.subspan(begin, n);
    } else {
      part.rows = out.rows.subspan(begin * dim, n * dim);
      if (!out.found.empty()) part.found = out.found.subspan(begin, n);
    }
    const std::span<const std::uint64_t> asked = keys.subspan(begin, n);
    if (mode == ReadMode::kEval) {
      GM_RETURN_IF_ERROR(ReadForEval(table, asked, part));
      continue;
    }
    GM_RETURN_IF_ERROR(MakeRoom(table, n));
    GM_RETURN_IF_ERROR(FaultIn(table, asked, false));
    tables_[table]->Read(asked, UnseenReads(table, mode), part);
  }
  return Ok();
}

Status TieredTables::Update(std::uint32_t table, std::span<const std::uint64_t> keys, std::span<const float> grads,
                            std::uint64_t step) {
  if (!damage_.ok()) return damage_;
  last_step_ = std::max(last_step_, step);
  if (!limited() && on_disk_[table].rows == 0) {
    tables_[table]->Update(keys, grads, step);
    return Ok();
  }
  const std::size_t slice = SliceOf(table);
  const auto dim = static_cast<std::size_t>(spec(table).dim);
  for (std::size_t begin = 0; begin < keys.size(); begin += slice) {
    const std::size_t n = std::min(slice, keys.size() - begin);
    GM_RETURN_IF_ERROR(MakeRoom(table, n));
    GM_RETURN_IF_ERROR(FaultIn(table, keys.subspan(begin, n), false));
    tables_[table]->Update(keys.subspan(begin, n), grads.subspan(begin * dim, n * dim), step);
  }
  return Ok();
}

std::uint64_t TieredTables::PrefetchRoom() const { return limit_ / kPrefetchPart; }

Status TieredTables::Prefetch(std::uint32_t table, std::span<const std::uint64_t> keys, std::uint64_t* room) {
  if (!damage_.ok()) return damage_;
  if (!limited()) return Ok();
  keys = keys.first(std::min<std::uint64_t>(keys.size(), *room / RowBytes(table)));
  *room -= keys.size() * RowBytes(table);
  const std::size_t slice = SliceOf(table);
  for (std::size_t begin = 0; begin < keys.size(); begin += slice) {
    const std::size_t n = std::min(slice, keys.size() - begin);
    if (on_disk_[table].rows != 0) GM_RETURN_IF_ERROR(MakeRoom(table, n));
    GM_RETURN_IF_ERROR(FaultIn(table, keys.subspan(begin, n), true));
  }
  return Ok();
}

// Looks the keys at absent_ up in the store, sorted. visit(position, values, header) for each that is there; those of a key
// that comes twice follow one another.
template <typename Visit>
Status TieredTables::FindOnDisk(std::uint32_t table, std::span<const std::uint64_t> keys, const Visit& visit) {
  lookups_.clear();
  for (const std::uint32_t at : absent_) {
    if (IsErased({.table = table, .key = keys[at]})) continue;
    lookups_.push_back({VshardOf(keys[at]), at, keys[at]});
  }
  std::sort(lookups_.begin(), lookups_.end(), [](const Lookup& a, const Lookup& b) {
    return std::tie(a.vshard, a.key, a.position) < std::tie(b.vshard, b.key, b.position);
  });
  store_keys_.clear();
  for (const Lookup& lookup : lookups_) store_keys_.push_back({.table = table, .key = lookup.key});
  const auto expected = static_cast<std::size_t>(spec(table).dim + state_dim(table));
  Status checked;
  const Status got =
      store_->MultiGet(store_keys_, [&](std::size_t i, std::span<const float> values, const RowHeader& header) {
        if (values.size() == expected) return visit(lookups_[i].position, values, header);
        if (checked.ok()) checked = CheckStoredRow(table, lookups_[i].key, values);
      });
  return got.ok() ? checked : got;
}

Status TieredTables::ReadStored(std::uint32_t table, std::span<const std::uint64_t> keys, std::span<float> values,
                                std::span<RowHeader> headers, std::span<std::uint8_t> found) {
  if (!damage_.ok()) return damage_;
  const auto floats = static_cast<std::size_t>(spec(table).dim + state_dim(table));
  absent_.clear();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    found[i] = tables_[table]->ReadStored(keys[i], values.subspan(i * floats, floats), &headers[i]) ? 1 : 0;
    if (found[i] == 0) absent_.push_back(static_cast<std::uint32_t>(i));
  }
  if (on_disk_[table].rows == 0) return Ok();
  return FindOnDisk(table, keys, [&](std::uint32_t at, std::span<const float> stored, const RowHeader& header) {
    std::copy(stored.begin(), stored.end(), values.begin() + static_cast<std::ptrdiff_t>(at * floats));
    headers[at] = header;
    found[at] = 1;
  });
}

// What is missing in memory is copied from the store and stays there.
Status TieredTables::ReadForEval(std::uint32_t table, std::span<const std::uint64_t> keys, const RowSink& out) {
  tables_[table]->Read(keys, ReadMode::kEval, out);
  absent_.clear();
  tables_[table]->FindAbsent(keys, false, &absent_);
  const auto dim = static_cast<std::size_t>(spec(table).dim);
  return FindOnDisk(table, keys, [&](std::uint32_t at, std::span<const float> values, const RowHeader&) {
    const std::size_t place = out.places.empty() ? at : out.places[at];
    std::copy_n(values.begin(), dim, out.rows.begin() + static_cast<std::ptrdiff_t>(place * dim));
    if (!out.found.empty()) out.found[place] = 1;
  });
}

// Brings back what is on disk. There must be room.
Status TieredTables::FaultIn(std::uint32_t table, std::span<const std::uint64_t> keys, bool want) {
  if (on_disk_[table].rows == 0 && !want) return Ok();
  absent_.clear();
  tables_[table]->FindAbsent(keys, want, &absent_);
  if (on_disk_[table].rows == 0 || absent_.empty()) return Ok();
  std::optional<std::uint64_t> last;  // a key that comes twice comes back once
  GM_RETURN_IF_ERROR(FindOnDisk(table, keys, [&](std::uint32_t at, std::span<const float> values, const RowHeader& header) {
    if (last == keys[at]) return;
    last = keys[at];
    tables_[table]->PutStored(keys[at], values, header, true);
    on_disk_[table].Take(keys[at]);
    ++spill_stats_[table].faulted_rows;
  }));
  return CheckCounts(table);
}

Status TieredTables::CheckCounts(std::uint32_t table) const {
  if (!on_disk_[table].miscounted) return Ok();
  return DataLoss("row store: table '" + spec(table).name + "' has more rows than its checkpoint counted; go back to an older one");
}

Status TieredTables::CheckStoredRow(std::uint32_t table, std::uint64_t key, std::span<const float> values) const {
  const auto expected = static_cast<std::size_t>(spec(table).dim + state_dim(table));
  if (values.size() == expected) return Ok();
  return DataLoss("row store: table '" + spec(table).name + "', key " + std::to_string(key) + ": a row of " +
                  std::to_string(values.size()) + " floats, expected " + std::to_string(expected) +
                  "; go back to a checkpoint");
}

// ---- keys that get and lose their rows ----------------------------------------------------------------------------------

Status TieredTables::FindAbsent(std::uint32_t table, std::span<const std::uint64_t> keys,
                                std::vector<std::uint32_t>* absent) {
  if (!damage_.ok()) return damage_;
  absent_.clear();
  tables_[table]->FindAbsent(keys, false, &absent_);
  if (on_disk_[table].rows == 0 || absent_.empty()) {
    absent->insert(absent->end(), absent_.begin(), absent_.end());
    return Ok();
  }
  std::vector<bool> found(keys.size(), false);
  GM_RETURN_IF_ERROR(FindOnDisk(table, keys, [&](std::uint32_t at, std::span<const float>, const RowHeader&) {
    found[at] = true;
  }));
  std::copy_if(absent_.begin(), absent_.end(), std::back_inserter(*absent), [&](std::uint32_t at) { return !found[at]; });
  return Ok();
}

Status TieredTables::Make(std::uint32_t table, std::span<const std::uint64_t> keys, const RowHeader& header) {
  if (!damage_.ok()) return damage_;
  last_step_ = std::max<std::uint64_t>(last_step_, header.last_step);
  const std::size_t slice = SliceOf(table);
  for (std::size_t begin = 0; begin < keys.size(); begin += slice) {
    const std::span<const std::uint64_t> some = keys.subspan(begin, std::min(slice, keys.size() - begin));
    GM_RETURN_IF_ERROR(MakeRoom(table, some.size()));
    tables_[table]->Make(some, header);
  }
  return Ok();
}

Status TieredTables::ReadHeaders(std::uint32_t table, std::span<const std::uint64_t> keys, std::span<RowHeader> headers,
                                 std::span<std::uint8_t> found) {
  if (!damage_.ok()) return damage_;
  const std::size_t slice = SliceOf(table);
  for (std::size_t begin = 0; begin < keys.size(); begin += slice) {
    const std::size_t n = std::min(slice, keys.size() - begin);
    GM_RETURN_IF_ERROR(MakeRoom(table, n));
    GM_RETURN_IF_ERROR(FaultIn(table, keys.subspan(begin, n), false));
    tables_[table]->ReadHeaders(keys.subspan(begin, n), headers.subspan(begin, n), found.subspan(begin, n));
  }
  return Ok();
}

Status TieredTables::Erase(std::uint32_t table, std::span<const std::uint64_t> keys) {
  if (!damage_.ok()) return damage_;
  for (const std::uint64_t key : keys) {
    if (erased_.size() >= kMaxErased) {
      FinishCheckpoint();
      GM_RETURN_IF_ERROR(WriteDirty({}));
    }
    const Table::Erased erased = tables_[table]->Erase(key);
    if (erased == Table::Erased::kRow) continue;
    if (erased == Table::Erased::kNothing) on_disk_[table].Take(key);
    erased_.Insert({.table = table, .key = key});
  }
  return Ok();
}

std::uint64_t TieredTables::rows(std::uint32_t table, std::uint32_t vshard) const {
  return tables_[table]->rows(vshard) + on_disk_[table].vshard_rows[vshard];
}

Result<std::uint64_t> TieredTables::EraseIdle(std::uint32_t table, std::uint32_t vshard, std::uint64_t step) {
  if (!damage_.ok()) return damage_;
  const OnDisk& disk = on_disk_[table];
  const bool on_disk = disk.vshard_rows[vshard] != 0 && disk.oldest_update[vshard] < step;
  GM_RETURN_IF_ERROR(CollectHeaders(table, vshard, on_disk));
  const auto idle = std::partition(headers_.begin(), headers_.end(),
                                   [step](const FoundHeader& row) { return row.header.last_step >= step; });
  const auto kept = static_cast<std::size_t>(idle - headers_.begin());
  GM_RETURN_IF_ERROR(EraseAfter(table, vshard, kept, on_disk));
  return headers_.size() - kept;
}

Result<std::uint64_t> TieredTables::EraseDownTo(std::uint32_t table, std::uint32_t vshard, std::uint64_t keep,
                                                EvictionOrder order) {
  if (!damage_.ok()) return damage_;
  const bool on_disk = on_disk_[table].vshard_rows[vshard] != 0;
  GM_RETURN_IF_ERROR(CollectHeaders(table, vshard, on_disk));
  if (headers_.size() <= keep) return 0;
  const auto worth = [order](const FoundHeader& row) {
    const std::uint32_t updates = order == EvictionOrder::kLeastOften ? row.header.updates : 0;
    return std::tuple(updates, row.header.last_step, Mix64(row.key));
  };
  std::nth_element(headers_.begin(), headers_.begin() + static_cast<std::ptrdiff_t>(keep), headers_.end(),
                   [&](const FoundHeader& a, const FoundHeader& b) { return worth(a) > worth(b); });
  GM_RETURN_IF_ERROR(EraseAfter(table, vshard, keep, on_disk));
  return headers_.size() - keep;
}

// headers_: of the rows of a vshard, with those on disk where that is asked for.
Status TieredTables::CollectHeaders(std::uint32_t table, std::uint32_t vshard, bool on_disk) {
  headers_.clear();
  in_memory_.clear();
  tables_[table]->AddHeaders(vshard, &in_memory_);
  for (const KeyedHeader& row : in_memory_) headers_.push_back({.key = row.key, .header = row.header, .on_disk = false});
  if (!on_disk) return Ok();
  // The store has older versions of rows in memory, too.
  std::sort(in_memory_.begin(), in_memory_.end(),
            [](const KeyedHeader& a, const KeyedHeader& b) { return a.key < b.key; });
  auto next = in_memory_.begin();
  return store_->Scan(table, vshard, vshard + 1,
                      [&](std::uint64_t key, std::span<const float>, const RowHeader& header) {
                        while (next != in_memory_.end() && next->key < key) ++next;
                        if (next != in_memory_.end() && next->key == key) return Ok();
                        if (IsErased({.table = table, .key = key})) return Ok();
                        headers_.push_back({.key = key, .header = header, .on_disk = true});
                        return Ok();
                      });
}

// Erases the rows of headers_ from position `kept` on. on_disk: as they were collected.
Status TieredTables::EraseAfter(std::uint32_t table, std::uint32_t vshard, std::size_t kept, bool on_disk) {
  if (on_disk) {
    std::uint32_t oldest = std::numeric_limits<std::uint32_t>::max();
    for (std::size_t i = 0; i < kept; ++i) {
      if (headers_[i].on_disk) oldest = std::min(oldest, headers_[i].header.last_step);
    }
    on_disk_[table].oldest_update[vshard] = oldest;
  }
  erasing_.clear();
  for (std::size_t i = kept; i < headers_.size(); ++i) erasing_.push_back(headers_[i].key);
  return Erase(table, erasing_);
}

// ---- the budget ---------------------------------------------------------------------------------------------------------

std::uint64_t TieredTables::RowBytes(std::uint32_t table) const {
  return tables_[table]->stats().row_bytes + kMaxIndexBytes;
}

std::size_t TieredTables::SliceOf(std::uint32_t table) const {
  if (!limited()) return kMaxSlice;
  return std::clamp<std::uint64_t>(limit_ / kSlicesInMemory / RowBytes(table), 1, kMaxSlice);
}

std::size_t TieredTables::CutPieceOf(std::uint32_t table) const {
  return limited() ? std::min<std::uint64_t>(kCutPiece, limit_ / kCutPiecesInMemory / RowBytes(table)) : kCutPiece;
}

std::uint64_t TieredTables::TouchedBytes() const {
  std::uint64_t bytes = 0;
  for (const auto& table : tables_) bytes += table->stats().memory_bytes;
  return bytes;
}

std::uint64_t TieredTables::FreeBytes() const {
  std::uint64_t bytes = 0;
  for (const auto& table : tables_) bytes += table->stats().free_bytes;
  return bytes;
}

std::uint64_t TieredTables::memory_bytes() const {
  return TouchedBytes() + store_->memory_bytes() + CountersBytes();
}

// Of what is known of rows that are not in memory, and of copies for a checkpoint.
std::uint64_t TieredTables::CountersBytes() const {
  std::uint64_t bytes = erased_.memory_bytes() + cut_erased_.memory_bytes();
  if (writer_ != nullptr) {
    bytes += writer_->memory_bytes();
    for (const auto& table : tables_) bytes += table->stats().cut_bytes;
  }
  for (const OnDisk& disk : on_disk_) {
    bytes += (disk.vshard_rows.size() + disk.oldest_update.size()) * sizeof(std::uint32_t);
  }
  if (reader_ != nullptr) bytes += reader_->memory_bytes() + piece_.rows.memory_bytes();
  return bytes;
}

std::uint64_t TieredTables::Limit(std::uint64_t percent) const {
  return (limit_ - std::min(limit_, buffered_bytes_ + store_->memory_bytes() + CountersBytes())) / 100 * percent;
}

// Room for so many more rows of a table.
Status TieredTables::MakeRoom(std::uint32_t table, std::uint64_t rows) {
  if (!limited()) return Ok();
  // Each may have to be copied for the checkpoint under way.
  const std::uint64_t need = rows * RowBytes(table) * (phase_ == Phase::kCopying ? 2 : 1);
  if (store_->memory_bytes() + need > limit_) {
    const std::uint64_t known = store_->memory_bytes() - StoreCacheBytes(options_.memory_budget) + CountersBytes();
    return InvalidInput("the memory budget of a server (ps.memory_budget), " +
                        InMiB(MiBUp(options_.memory_budget * options_.shards_of_server)) +
                        ", leaves no room for rows in memory beside what is known of those on disk. Raise it to " +
                        InMiB(MiBUp(BudgetFor(known + 4 * need)) * options_.shards_of_server) + " or more, or use more servers");
  }
  // Wanted rows are passed over the first time round; where all of a table is wanted, the budget is overstepped for a while.
  const std::uint64_t vshards = options_.vshards.end - options_.vshards.first;
  for (std::uint64_t looked_at = 0; looked_at < 2 * vshards;) {
    const std::uint64_t used = TouchedBytes() - FreeBytes() + need;
    if (used <= Limit(kUsedPercent)) break;
    if (phase_ != Phase::kNone && looked_at >= vshards) {
      FinishCheckpoint();
      looked_at = 0;
      continue;
    }
    GM_ASSIGN_OR_RETURN(const std::uint64_t range, SpillColdest(used - Limit(kUsedPercent)));
    looked_at += range;
  }
  ReturnFreeMemory(table, rows);
  return Ok();
}

// Free places of other tables are of no use to this one: as many of those tables as it takes are made smaller, the ones with
// most of them first.
void TieredTables::ReturnFreeMemory(std::uint32_t table, std::uint64_t rows) {
  const TableStats own = tables_[table]->stats();
  const std::uint64_t free_rows = own.free_bytes / own.row_bytes;
  if (rows <= free_rows) return;
  const std::uint64_t need = (rows - free_rows) * RowBytes(table);
  while (TouchedBytes() + need > Limit(100)) {
    Table* most = nullptr;
    for (std::uint32_t t = 0; t < tables_.size(); ++t) {
      const std::uint64_t free_bytes = t == table ? 0 : tables_[t]->stats().free_bytes;
      if (free_bytes > (most == nullptr ? 0 : most->stats().free_bytes)) most = tables_[t].get();
    }
    if (most == nullptr) return;
    most->Compact();
  }
}

// Takes at least `bytes` of rows out of memory, as far as a range of vshards has them (while a checkpoint is under way: such as
// the store has). Returns how many vshards it has.
Result<std::uint64_t> TieredTables::SpillColdest(std::uint64_t bytes) {
  const std::uint64_t goal = std::max(bytes, std::min(limit_ / kBatchesInMemory, kBatchBytes));
  const std::uint64_t vshards = options_.vshards.end - options_.vshards.first;
  std::uint64_t used = 1;
  for (std::uint32_t t = 0; t < tables_.size(); ++t) used += tables_[t]->stats().rows * RowBytes(t);
  const std::uint64_t range = std::clamp<std::uint64_t>(vshards * goal * kColdestOf / used + 1, 1, vshards);

  cold_.clear();
  std::uint64_t cold_bytes = 0;
  for (std::uint32_t t = 0; t < tables_.size(); ++t) {
    const std::size_t before = cold_.size();
    std::uint32_t vshard = next_vshard_;
    for (std::uint64_t i = 0; i < range; ++i) {
      tables_[t]->AddCold(vshard, last_step_, &cold_);
      if (++vshard == options_.vshards.end) vshard = options_.vshards.first;
    }
    if (phase_ != Phase::kNone) {
      const auto dirty = [](const ColdRow& row) { return row.dirty; };
      cold_.erase(std::remove_if(cold_.begin() + static_cast<std::ptrdiff_t>(before), cold_.end(), dirty), cold_.end());
    }
    for (std::size_t i = before; i < cold_.size(); ++i) cold_[i].table = t;
    cold_bytes += (cold_.size() - before) * RowBytes(t);
  }
  next_vshard_ = options_.vshards.first +
                 static_cast<std::uint32_t>((next_vshard_ - options_.vshards.first + range) % vshards);
  if (cold_.empty()) return range;

  // Tables whose rows are of another size than the average make it a little more or less.
  const double share = std::min(1.0, static_cast<double>(goal) / static_cast<double>(cold_bytes));
  const auto count = static_cast<std::size_t>(std::ceil(share * static_cast<double>(cold_.size())));
  if (count < cold_.size()) {
    std::nth_element(cold_.begin(), cold_.begin() + static_cast<std::ptrdiff_t>(count), cold_.end(),
                     [](const ColdRow& a, const ColdRow& b) { return a.age > b.age; });
    cold_.resize(count);
  }
  std::sort(cold_.begin(), cold_.end(),
            [](const ColdRow& a, const ColdRow& b) { return StoreOrder(a) < StoreOrder(b); });
  if (phase_ == Phase::kNone) GM_RETURN_IF_ERROR(WriteDirty(cold_));
  Drop(cold_);
  return range;
}

// Those of `rows` that are, which are in store order, and erases what was erased.
Status TieredTables::WriteDirty(std::span<const ColdRow> rows) {
  GM_ASSIGN_OR_RETURN(const auto writer, store_->NewBulkWriter());
  ErasedKeys::Feed erased(erased_, writer.get());
  RowHeader header;
  std::vector<std::uint64_t> written(tables_.size(), 0);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i + kRowsAhead < rows.size()) tables_[rows[i + kRowsAhead].table]->PrefetchRow(rows[i + kRowsAhead].row);
    if (!rows[i].dirty) continue;
    const StoreKey key{.table = rows[i].table, .key = rows[i].key};
    GM_RETURN_IF_ERROR(erased.UpTo(key));
    const Table& table = *tables_[rows[i].table];
    values_.resize(static_cast<std::size_t>(table.spec().dim + table.state_dim()));
    table.CopyRow(rows[i].row, values_, &header);
    GM_RETURN_IF_ERROR(writer->Add(key, values_, header));
    ++written[rows[i].table];
  }
  GM_RETURN_IF_ERROR(erased.Rest());
  ++store_version_;
  GM_RETURN_IF_ERROR(writer->Finish());
  erased_.Clear();
  for (std::size_t t = 0; t < written.size(); ++t) spill_stats_[t].written_rows += written[t];
  return Ok();
}

// `rows` are sorted by table.
void TieredTables::Drop(std::span<const ColdRow> rows) {
  while (!rows.empty()) {
    const std::uint32_t t = rows[0].table;
    const auto end = std::find_if(rows.begin(), rows.end(), [t](const ColdRow& row) { return row.table != t; });
    const auto count = static_cast<std::size_t>(end - rows.begin());
    tables_[t]->Drop(rows.first(count));
    spill_stats_[t].dropped_rows += count;
    for (const ColdRow& row : rows.first(count)) {
      on_disk_[t].Add(row.key, {.updates = 0, .last_step = row.last_step});
    }
    rows = rows.subspan(count);
  }
}

// ---- checkpoints --------------------------------------------------------------------------------------------------------

Status TieredTables::BeginCheckpoint(const std::string& dir) {
  if (!damage_.ok()) return damage_;
  if (phase_ != Phase::kNone) return Unavailable("a checkpoint is being written to " + report_.dir + "; wait until it is done");
  report_ = {.dir = dir};
  cut_counts_ = CountRows();
  cut_erased_ = std::move(erased_);
  erased_.Clear();
  for (const auto& table : tables_) table->BeginCut();
  const auto on_progress = options_.on_progress ? options_.on_progress : [] {};
  writer_ = std::make_unique<CutWriter>(store_.get(), options_.executor != nullptr ? options_.executor : &here_, &cut_erased_,
                                        on_progress);
  cut_table_ = 0;
  cut_vshard_ = options_.vshards.first;
  phase_ = Phase::kCopying;
  return Ok();
}

bool TieredTables::CanContinueCheckpoint() const {
  switch (phase_) {
    case Phase::kNone: return false;
    case Phase::kCopying: return writer_->CanTake();
    case Phase::kWriting: return writer_->done();
    case Phase::kEnding: return true;
  }
  return false;
}

CheckpointReport TieredTables::checkpoint() const {
  CheckpointReport report = report_;
  if (writer_ != nullptr) {
    report.rows_written = writer_->rows_written();
    report.bytes_copied = writer_->bytes_copied();
  }
  return report;
}

void TieredTables::ContinueCheckpoint(std::uint64_t rows) {
  if (!CanContinueCheckpoint()) return;
  if (phase_ == Phase::kCopying) return CopyCut(rows);
  if (phase_ == Phase::kWriting) {
    report_.status = writer_->status();
    report_.rows_written = writer_->rows_written();
    report_.bytes_copied = writer_->bytes_copied();
    // What is marked as stored from here on may leave memory and be asked of the store.
    if (!writer_->stored()) erased_.Add(cut_erased_);
    cut_erased_.Clear();
    ++store_version_;
    cut_table_ = 0;
    phase_ = Phase::kEnding;
  }
  EndCut(rows);
}

// The rows of a piece at most, and about `rows` that are looked at for them.
void TieredTables::CopyCut(std::uint64_t rows) {
  std::uint64_t looked_at = 0;
  const auto is_full = [this] {
    return cut_table_ < tables_.size() && !cut_rows_.keys.empty() && cut_rows_.keys.size() >= CutPieceOf(cut_table_);
  };
  while (cut_table_ < tables_.size() && looked_at < rows && !is_full() && !writer_->failed()) {
    looked_at += tables_[cut_table_]->VisitCut(cut_vshard_, &cut_rows_) + 1;
    if (++cut_vshard_ < options_.vshards.end) continue;
    if (!cut_rows_.keys.empty()) writer_->Write(cut_table_, &cut_rows_);
    cut_vshard_ = options_.vshards.first;
    ++cut_table_;
    if (!writer_->CanTake()) break;
  }
  if (is_full()) writer_->Write(cut_table_, &cut_rows_);
  report_.rows_written = writer_->rows_written();
  if (cut_table_ < tables_.size() && !writer_->failed()) return;
  cut_rows_ = {};
  writer_->Finish(report_.dir, std::move(cut_counts_));
  phase_ = Phase::kWriting;
}

void TieredTables::EndCut(std::uint64_t rows) {
  if (cut_table_ < tables_.size() && !tables_[cut_table_]->EndCut(writer_->stored(), rows)) return;
  if (++cut_table_ < tables_.size()) return;
  writer_.reset();
  phase_ = Phase::kNone;
  report_.done = true;
}

// The rest at once.
void TieredTables::FinishCheckpoint() {
  while (phase_ != Phase::kNone) {
    if (!CanContinueCheckpoint() && options_.executor != nullptr) options_.executor->Drain();
    ContinueCheckpoint(~0ULL);
  }
}

// The tables of the cut, and the store, are about to change as a whole.
void TieredTables::StopBackground() {
  reader_.reset();
  piece_ = {};
  piece_at_ = 0;
  scrubbing_ = false;
  if (phase_ == Phase::kNone) return;
  writer_->Stop();
  const bool stored = writer_->stored();
  writer_.reset();
  for (const auto& table : tables_) {
    while (!table->EndCut(stored, ~0ULL)) {}
  }
  if (!stored) erased_.Add(cut_erased_);
  cut_erased_.Clear();
  cut_rows_ = {};
  ++store_version_;
  phase_ = Phase::kNone;
  report_.done = true;
  if (report_.status.ok()) report_.status = Cancelled("the tables were replaced while the checkpoint " + report_.dir + " was written");
}

Status TieredTables::WriteCheckpoint(const std::string& dir, std::uint64_t* rows_written) {
  GM_RETURN_IF_ERROR(BeginCheckpoint(dir));
  FinishCheckpoint();
  *rows_written = report_.rows_written;
  return report_.status;
}

RowCounts TieredTables::CountRows() const {
  RowCounts counts{.vshards = options_.vshards, .tables = {}};
  for (std::uint32_t t = 0; t < tables_.size(); ++t) {
    std::vector<std::uint32_t>& of_table = counts.tables.emplace_back();
    of_table.reserve(options_.vshards.end - options_.vshards.first);
    for (std::uint32_t vshard = options_.vshards.first; vshard < options_.vshards.end; ++vshard) {
      of_table.push_back(static_cast<std::uint32_t>(rows(t, vshard)));
    }
  }
  return counts;
}

// ---- restore ------------------------------------------------------------------------------------------------------------

Status TieredTables::TakeOver(std::span<const RowStore::Source> sources, const RowCounts& counts, std::uint64_t step) {
  StopBackground();
  GM_RETURN_IF_ERROR(store_->Replace(sources, static_cast<std::uint32_t>(tables_.size())));
  std::vector<OnDisk> rows = NothingOnDisk();
  for (std::size_t t = 0; t < rows.size(); ++t) {
    for (std::uint32_t vshard = options_.vshards.first; vshard < options_.vshards.end; ++vshard) {
      const std::uint32_t of_vshard = counts.tables[t][vshard - counts.vshards.first];
      rows[t].vshard_rows[vshard] = of_vshard;
      rows[t].rows += of_vshard;
    }
    // When they were updated is not known until they are read.
    std::fill(rows[t].oldest_update.begin(), rows[t].oldest_update.end(), 0U);
  }
  StartOver(std::move(rows), step);
  return Ok();
}

Status TieredTables::Restore(CheckpointReader* reader, std::span<const std::uint32_t> numbers, std::uint64_t step) {
  return ReplaceRows(reader, numbers, step, {});
}

// What a table keeps in 16 bits is rounded to nearest, as it may come from one that does not.
Status TieredTables::WarmStart(CheckpointReader* reader, std::span<const std::uint32_t> numbers, std::uint64_t step) {
  std::vector<std::unique_ptr<SparseOptimizer>> optimizers;
  for (std::uint32_t t = 0; t < tables_.size(); ++t) {
    GM_ASSIGN_OR_RETURN(auto optimizer, NewSparseOptimizer(spec(t).optimizer));
    optimizers.push_back(std::move(optimizer));
  }
  std::vector<std::byte> packed;
  return ReplaceRows(reader, numbers, step, [&](std::uint32_t t, std::vector<float>* values, RowHeader* header) {
    const auto dim = static_cast<std::size_t>(spec(t).dim);
    values->resize(dim + static_cast<std::size_t>(state_dim(t)));
    const std::span<float> embedding = std::span(*values).first(dim);
    if (spec(t).dtype != FloatType::kFloat32) {
      packed.resize(dim * BytesOf(spec(t).dtype));
      PackFloats(spec(t).dtype, embedding, packed.data());
      UnpackFloats(spec(t).dtype, packed.data(), embedding);
    }
    optimizers[t]->InitStateOf(embedding, std::span(*values).subspan(dim));
    header->last_step = static_cast<std::uint32_t>(step);
  });
}

Status TieredTables::ReplaceRows(CheckpointReader* reader, std::span<const std::uint32_t> numbers, std::uint64_t step,
                                 const ChangeRow& change) {
  StopBackground();
  GM_ASSIGN_OR_RETURN(const auto writer, store_->NewReplacement());
  std::vector<OnDisk> rows = NothingOnDisk();
  for (std::uint32_t number = 0; number < tables_.size(); ++number) {
    if (numbers[number] == kNotSaved) continue;
    const auto take = [&](std::uint64_t key, std::span<const float> values, const RowHeader& header) {
      if (!change) {
        rows[number].Add(key, header);
        return writer->Add({.table = number, .key = key}, values, header);
      }
      std::vector<float> changed(values.begin(), values.end());
      RowHeader its_header = header;
      change(number, &changed, &its_header);
      rows[number].Add(key, its_header);
      return writer->Add({.table = number, .key = key}, changed, its_header);
    };
    GM_RETURN_IF_ERROR(reader->Scan(numbers[number], options_.vshards.first, options_.vshards.end, take));
  }
  GM_RETURN_IF_ERROR(writer->Finish());
  StartOver(std::move(rows), step);
  return Ok();
}

Status TieredTables::Clear() {
  StopBackground();
  GM_RETURN_IF_ERROR(store_->Replace({}, 0));
  StartOver(NothingOnDisk(), 0);
  return Ok();
}

// All rows are in the store.
void TieredTables::StartOver(std::vector<OnDisk> rows, std::uint64_t step) {
  for (const auto& table : tables_) table->Clear();
  erased_.Clear();
  on_disk_ = std::move(rows);
  last_step_ = step;
  damage_ = Ok();
  BeginRefill();
}

// A part of what is on disk, of every vshard and table alike, so that the first steps find some of what they need; without a
// budget everything.
void TieredTables::BeginRefill() {
  std::uint64_t on_disk = 0;
  std::uint64_t bytes = 1;
  for (std::uint32_t t = 0; t < tables_.size(); ++t) {
    on_disk += on_disk_[t].rows;
    bytes += on_disk_[t].rows * RowBytes(t);
  }
  if (on_disk == 0) return;
  const auto share_of = [](std::uint64_t room, std::uint64_t need) {
    return std::min(1.0, static_cast<double>(room) / static_cast<double>(need));
  };
  double share = limited() ? share_of(Limit(kRefillPercent), bytes) : 1.0;
  for (std::uint32_t t = 0; t < tables_.size(); ++t) {
    tables_[t]->Reserve(static_cast<std::uint64_t>(share * static_cast<double>(on_disk_[t].rows)));
  }
  if (limited()) {  // indexes have their full size now
    bytes = 1;
    for (std::uint32_t t = 0; t < tables_.size(); ++t) bytes += on_disk_[t].rows * tables_[t]->stats().row_bytes;
    const std::uint64_t room = Limit(kRefillPercent);
    share = std::min(share, share_of(room - std::min(room, TouchedBytes()), bytes));
  }
  refill_share_ = share;
  refill_table_ = 0;
  refill_vshard_ = options_.vshards.first;
  Executor* const reader = options_.reader != nullptr ? options_.reader : options_.executor;
  const auto on_progress = options_.on_progress ? options_.on_progress : [] {};
  reader_ = std::make_unique<StoreReader>(
      store_.get(), reader != nullptr ? reader : &here_,
      [this](std::uint32_t table, std::uint64_t key, std::span<const float> values) { return CheckStoredRow(table, key, values); },
      on_progress);
}

bool TieredTables::HasNextPiece() const { return refill_table_ < tables_.size(); }

// The next vshards of a table that have about so many rows on disk; maybe none, at a table's end.
StorePiece TieredTables::NextPiece() {
  const OnDisk& disk = on_disk_[refill_table_];
  StorePiece piece;
  piece.table = refill_table_;
  piece.only_checked = scrubbing_;
  piece.version = store_version_;
  while (refill_vshard_ < options_.vshards.end && disk.vshard_rows[refill_vshard_] == 0) ++refill_vshard_;
  piece.vshards.first = refill_vshard_;
  const std::uint64_t wanted = limited() ? CutPieceOf(refill_table_) : kRefillPiece;
  std::uint64_t rows = 0;
  while (refill_vshard_ < options_.vshards.end && rows < wanted) {
    const std::uint32_t of_vshard = disk.vshard_rows[refill_vshard_++];
    const auto some = scrubbing_ ? of_vshard : static_cast<std::uint32_t>(std::ceil(refill_share_ * of_vshard));
    if (refill_share_ < 1.0 && !scrubbing_) piece.max_rows.push_back(some);
    rows += some;
  }
  piece.vshards.end = refill_vshard_;
  if (refill_vshard_ == options_.vshards.end) {
    refill_vshard_ = options_.vshards.first;
    ++refill_table_;
  }
  return piece;
}

void TieredTables::AskNext() {
  StorePiece next = NextPiece();
  if (next.vshards.first < next.vshards.end) reader_->Ask(std::move(next));
}

void TieredTables::Scrub() {
  if (scrubbing_ && reader_->idle() && HasNextPiece()) AskNext();
}

bool TieredTables::CanRefill() const {
  if (reader_ == nullptr) return false;
  return piece_at_ < piece_.rows.keys.size() || reader_->ready() || (HasNextPiece() && !scrubbing_ && reader_->CanAsk()) ||
         (!HasNextPiece() && reader_->idle());
}

void TieredTables::Refill(std::uint64_t rows) {
  if (reader_ == nullptr) return;
  while (HasNextPiece() && !scrubbing_ && reader_->CanAsk()) AskNext();
  if (piece_at_ == piece_.rows.keys.size() && reader_->ready()) {
    piece_ = reader_->Take();
    piece_at_ = 0;
    if (!piece_.status.ok()) {
      damage_ = piece_.status;
      return EndRefill();
    }
    if (scrubbing_) piece_.rows.Clear();  // asked for before there was no room for more
  }
  if (!piece_.rows.keys.empty() && !HasRoomForPiece()) return EndRefill();
  if (piece_.version != store_version_ && !piece_.rows.keys.empty()) {  // some may have changed or gone since
    piece_.version = store_version_;
    piece_at_ = 0;
    reader_->Ask(std::move(piece_));
    piece_ = {};
    return;
  }
  PutPiece(rows);
  if (!HasNextPiece() && reader_ != nullptr && reader_->idle() && piece_at_ == piece_.rows.keys.size()) EndRefill();
}

bool TieredTables::HasRoomForPiece() const {
  const std::uint64_t bytes = (piece_.rows.keys.size() - piece_at_) * tables_[piece_.table]->stats().row_bytes;
  return !limited() || TouchedBytes() - FreeBytes() + bytes <= Limit(kRefillPercent);
}

// Of piece_, those that did not come by themselves.
void TieredTables::PutPiece(std::uint64_t rows) {
  const std::uint32_t t = piece_.table;
  const std::size_t n = std::min<std::uint64_t>(rows, piece_.rows.keys.size() - piece_at_);
  if (n == 0) return;
  const std::span<const std::uint64_t> keys = std::span(piece_.rows.keys).subspan(piece_at_, n);
  const auto floats = static_cast<std::size_t>(spec(t).dim + state_dim(t));
  absent_.clear();
  tables_[t]->FindAbsent(keys, false, &absent_);
  for (const std::uint32_t i : absent_) {
    if (IsErased({.table = t, .key = keys[i]})) continue;
    const std::size_t at = piece_at_ + i;
    tables_[t]->PutStored(keys[i], std::span(piece_.rows.values).subspan(at * floats, floats), piece_.rows.headers[at]);
    on_disk_[t].Take(keys[i]);
  }
  piece_at_ += n;
  damage_ = CheckCounts(t);
  if (!damage_.ok()) EndRefill();
}

void TieredTables::EndRefill() {
  piece_ = {};
  piece_at_ = 0;
  if (limited() && !scrubbing_ && damage_.ok()) {
    scrubbing_ = true;
    refill_table_ = 0;
    refill_vshard_ = options_.vshards.first;
    return;
  }
  scrubbing_ = false;
  reader_.reset();
  if (limited() || !damage_.ok()) return;
  for (std::uint32_t t = 0; t < tables_.size(); ++t) {
    if (on_disk_[t].rows == 0) continue;
    damage_ = DataLoss("row store: table '" + spec(t).name + "' has " + std::to_string(on_disk_[t].rows) +
                       " rows less than its checkpoint counted; go back to an older one");
  }
}

SpillStats TieredTables::spill_stats() const {
  SpillStats sum;
  for (const SpillStats& table : spill_stats_) {
    sum.faulted_rows += table.faulted_rows;
    sum.written_rows += table.written_rows;
    sum.dropped_rows += table.dropped_rows;
  }
  return sum;
}

TieredTableStats TieredTables::stats(std::uint32_t table) const {
  const TableStats memory = tables_[table]->stats();
  return {.memory = memory, .rows = memory.rows + on_disk_[table].rows};
}

}  // namespace gatemill::ps
