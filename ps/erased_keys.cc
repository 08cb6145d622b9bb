#include "ps/erased_keys.h"

#include <algorithm>
#include <tuple>

#include "common/keys.h"

namespace gatemill::ps {
namespace {

auto StoreOrder(const StoreKey& key) { return std::tuple(key.table, VshardOf(key.key), key.key); }

}  // namespace

std::size_t ErasedKeys::Hash::operator()(const StoreKey& key) const { return Mix64(key.key + key.table); }

ErasedKeys::Feed::Feed(const ErasedKeys& erased, RowStore::BulkWriter* writer)
    : writer_(writer), keys_(erased.keys_.begin(), erased.keys_.end()) {
  std::sort(keys_.begin(), keys_.end(),
            [](const StoreKey& a, const StoreKey& b) { return StoreOrder(a) < StoreOrder(b); });
}

Status ErasedKeys::Feed::UpTo(StoreKey row) {
  while (next_ < keys_.size() && StoreOrder(keys_[next_]) < StoreOrder(row)) {
    GM_RETURN_IF_ERROR(writer_->Erase(keys_[next_++]));
  }
  if (next_ < keys_.size() && StoreOrder(keys_[next_]) == StoreOrder(row)) ++next_;
  return Ok();
}

Status ErasedKeys::Feed::Rest() {
  while (next_ < keys_.size()) GM_RETURN_IF_ERROR(writer_->Erase(keys_[next_++]));
  return Ok();
}

}  // namespace gatemill::ps
