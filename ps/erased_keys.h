// Keys whose rows are gone from memory, and which the store has yet to be told of.
//
//   erased.Insert({.table = 0, .key = 7});
//   ErasedKeys::Feed feed(erased, writer);     // a bulk write takes rows and erased keys in one order
//   for (row : rows) { feed.UpTo(row.key); writer->Add(row...); }
//   feed.Rest();  writer->Finish();  erased.Clear();
//
// Thread safety: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_set>
#include <vector>

#include "common/status.h"
#include "ps/store/row_store.h"

namespace gatemill::ps {

class ErasedKeys {
 public:
  void Insert(StoreKey key) { keys_.insert(key); }
  void Add(const ErasedKeys& others) { keys_.insert(others.keys_.begin(), others.keys_.end()); }
  [[nodiscard]] bool Contains(StoreKey key) const { return !keys_.empty() && keys_.contains(key); }
  [[nodiscard]] std::size_t size() const { return keys_.size(); }
  [[nodiscard]] std::uint64_t memory_bytes() const { return keys_.size() * kBytesOfKey; }
  void Clear() { keys_.clear(); }

  // Those of one moment, handed to a bulk write in store order.
  class Feed {
   public:
    Feed(const ErasedKeys& erased, RowStore::BulkWriter* writer);
    // Those before `row`, which is added next: it stands for an erased key of its own.
    Status UpTo(StoreKey row);
    Status Rest();

   private:
    RowStore::BulkWriter* writer_;
    std::vector<StoreKey> keys_;
    std::size_t next_ = 0;
  };

 private:
  static constexpr std::uint64_t kBytesOfKey = 48;  // with its node and bucket, about
  struct Hash {
    std::size_t operator()(const StoreKey& key) const;
  };
  struct Equal {
    bool operator()(const StoreKey& a, const StoreKey& b) const { return a.table == b.table && a.key == b.key; }
  };
  std::unordered_set<StoreKey, Hash, Equal> keys_;
};

}  // namespace gatemill::ps
