// The row store in memory: a sorted map with the behaviour of the one on disk.
#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/keys.h"
#include "ps/store/row_store.h"

namespace gatemill::ps {
namespace {

using Order = std::tuple<std::uint32_t, std::uint32_t, std::uint64_t>;  // table, vshard, key
struct Row {
  std::vector<float> values;
  RowHeader header;
};
using Rows = std::map<Order, Row>;

Order OrderOf(StoreKey key) { return {key.table, VshardOf(key.key), key.key}; }

class MemoryBulkWriter final : public RowStore::BulkWriter {
 public:
  // replaces: everything there was goes when it is finished.
  MemoryBulkWriter(Rows* rows, std::mutex* mutex, bool replaces) : rows_(rows), mutex_(mutex), replaces_(replaces) {}

  Status Add(StoreKey key, std::span<const float> values, const RowHeader& header) override {
    return Append(key, Row{{values.begin(), values.end()}, header});
  }
  Status Erase(StoreKey key) override { return Append(key, std::nullopt); }
  Status Finish() override {
    const std::lock_guard lock(*mutex_);
    if (replaces_) rows_->clear();
    for (auto& [order, row] : added_) {
      if (row.has_value()) {
        (*rows_)[order] = std::move(*row);
      } else {
        rows_->erase(order);
      }
    }
    added_.clear();
    return Ok();
  }

 private:
  Status Append(StoreKey key, std::optional<Row> row) {
    const Order order = OrderOf(key);
    if (!added_.empty() && added_.rbegin()->first >= order) {
      return Internal("row store: rows added out of (table, vshard, key) order");
    }
    added_.emplace_hint(added_.end(), order, std::move(row));
    return Ok();
  }

  Rows* rows_;  // the store's, as is the mutex that guards them
  std::mutex* mutex_;
  bool replaces_;
  std::map<Order, std::optional<Row>> added_;  // none = erased
};

class MemoryRowStore final : public RowStore {
 public:
  Result<std::unique_ptr<BulkWriter>> NewBulkWriter() override {
    return std::unique_ptr<BulkWriter>(std::make_unique<MemoryBulkWriter>(&rows_, &mutex_, false));
  }
  Result<std::unique_ptr<BulkWriter>> NewReplacement() override {
    return std::unique_ptr<BulkWriter>(std::make_unique<MemoryBulkWriter>(&rows_, &mutex_, true));
  }

  Status MultiGet(std::span<const StoreKey> keys, const VisitFound& visit) override {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto found = rows_.find(OrderOf(keys[i]));
      if (found != rows_.end()) visit(i, found->second.values, found->second.header);
    }
    return Ok();
  }

  Status Scan(std::uint32_t table, std::uint32_t first_vshard, std::uint32_t end_vshard,
              const VisitRow& visit) override {
    const std::lock_guard lock(mutex_);
    const auto end = rows_.lower_bound({table, end_vshard, 0});
    for (auto at = rows_.lower_bound({table, first_vshard, 0}); at != end && first_vshard < end_vshard; ++at) {
      GM_RETURN_IF_ERROR(visit(std::get<2>(at->first), at->second.values, at->second.header));
    }
    return Ok();
  }

  // The same files as a store on disk writes: its rows go through one.
  Status Checkpoint(const std::string& dir, const VisitCopied& /*copied*/) override {
    const std::string scratch = dir + ".scratch";
    Status status = CheckpointThrough(scratch, dir);
    const Status removed = RemoveTree(scratch);
    return status.ok() ? removed : status;
  }

  // Reads them all.
  Status Replace(std::span<const Source> sources, std::uint32_t num_tables) override {
    Rows taken;
    for (const Source& source : sources) {
      const auto opened = OpenRowStoreReadOnly(source.dir);
      if (opened.status().code() == Code::kInvalidInput) return DataLoss(opened.status().message());  // its files are gone
      GM_RETURN_IF_ERROR(opened.status());
      const std::unique_ptr<RowStore>& store = *opened;
      for (std::uint32_t table = 0; table < num_tables; ++table) {
        GM_RETURN_IF_ERROR(store->Scan(table, source.vshards.first, source.vshards.end,
                                       [&](std::uint64_t key, std::span<const float> values, const RowHeader& header) {
                                         taken[OrderOf({.table = table, .key = key})] = {{values.begin(), values.end()}, header};
                                         return Ok();
                                       }));
      }
    }
    const std::lock_guard lock(mutex_);
    rows_ = std::move(taken);
    return Ok();
  }

  [[nodiscard]] std::uint64_t memory_bytes() const override { return 0; }  // it stands for a disk

 private:
  Status CheckpointThrough(const std::string& scratch, const std::string& dir) {
    GM_ASSIGN_OR_RETURN(auto store, CreateRowStore(scratch));
    GM_ASSIGN_OR_RETURN(auto writer, store->NewBulkWriter());
    const std::lock_guard lock(mutex_);
    for (const auto& [order, row] : rows_) {
      GM_RETURN_IF_ERROR(writer->Add({.table = std::get<0>(order), .key = std::get<2>(order)}, row.values, row.header));
    }
    GM_RETURN_IF_ERROR(writer->Finish());
    return store->Checkpoint(dir);
  }

  std::mutex mutex_;
  Rows rows_;  // guarded by mutex_
};

}  // namespace

std::unique_ptr<RowStore> NewMemoryRowStore() { return std::make_unique<MemoryRowStore>(); }

}  // namespace gatemill::ps
