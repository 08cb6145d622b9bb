// Key -> row number, in memory: open addressing in buckets of one cache line, looked up in batches.
//
//   RowIndex index({.first = 0, .end = 512});       // the vshards whose keys it will be asked for
//   index.Find(keys, rows);                         // rows[i] = row number, or kNoRow
//   index.Insert(key, row);                         // `key` must be absent
//
// A bucket has five keys with their rows. A key lies in its home bucket or, when that was full, in one of the next; a
// bucket counts the keys that had to go on past it, so a lookup that misses ends in one cache line as a rule, and an
// erased key leaves no trace. Buckets are in the order of the keys' hashes, so a vshard's keys lie together.
//
// Growth has no pause: when the buckets are 25/32 full, a quarter more is added behind them, and every insert
// moves the keys of two buckets to their new places, last bucket first (a home only moves up, so the array is rearranged
// where it is). Until that is done, keys from the border up have their homes in the larger array, those below in the old.
//
// Every uint64 is a legal key. Memory: 16 to 20 bytes a key. Thread safety: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/keys.h"
#include "ps/table/isa.h"
#include "ps/table/pages.h"

namespace gatemill::ps {

// first <= vshard < end.
struct VshardRange {
  std::uint32_t first = 0;
  std::uint32_t end = kNumVshards;
};

class RowIndex {
 public:
  static constexpr std::uint32_t kNoRow = ~0U;

  struct Slot {
    std::uint64_t key;
    std::uint32_t row;
  };

  // `isa`: one that this CPU has; the results are the same with each.
  // `preparer`: see ps/table/pages.h.
  explicit RowIndex(VshardRange vshards = {}, Isa isa = BestIsa(), PagePreparer* preparer = nullptr);

  // Where rows lie: row r at first + r * stride. The default asks for nothing.
  struct RowPlaces {
    const std::byte* first = nullptr;
    std::size_t stride = 0;
  };
  // rows: [keys] out. The cache line in which a row begins is asked for meanwhile, of each that is
  // found in its home bucket.
  void Find(std::span<const std::uint64_t> keys, std::uint32_t* rows, const RowPlaces& places) const;
  void Find(std::span<const std::uint64_t> keys, std::uint32_t* rows) const { Find(keys, rows, {}); }
  [[nodiscard]] std::uint32_t Find(std::uint64_t key) const;
  // The row of `key`, which becomes `row` when there is none. *created tells which.
  std::uint32_t FindOrInsert(std::uint64_t key, std::uint32_t row, bool* created);
  void Insert(std::uint64_t key, std::uint32_t row);  // `key` must be absent
  // Ahead of FindOrInsert. (Inlined early: GCC 12 drops calls of a function that does nothing but prefetch.)
  GM_LOOP void PrefetchHome(std::uint64_t key) const { __builtin_prefetch(buckets() + homes_.Of(key), 1); }
  void Erase(std::uint64_t key);                      // `key` must be present
  void Clear();
  // Makes room for so many keys at once, in an index that has none. Keys that come in the order of their hashes, as a store has
  // them, need it: they would all crowd the low buckets of an index that grows with them.
  void Reserve(std::uint64_t keys);

  // The keys of one vshard with their rows, appended in no particular order.
  void Collect(std::uint32_t vshard, std::vector<Slot>* slots) const;
  // Every key's row becomes new_row(row), which is called once for each; an index that has become much too large is made anew.
  void Renumber(const std::function<std::uint32_t(std::uint32_t)>& new_row);
  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] std::uint64_t memory_bytes() const;

  static constexpr int kSlots = 5;
  struct alignas(64) Bucket {
    std::uint64_t key[kSlots];
    std::uint32_t not_row[kSlots];  // ~row; the used slots first, then zeros, so that a fresh page is empty buckets
    std::uint32_t beyond;           // keys that have their home here or before, and their place after
  };
  static_assert(sizeof(Bucket) == 64);

  // Where the home of a key is: of its place in the hash range, scaled to 32 bits, the bucket in the array of old_ or new_
  // buckets, whichever the border says.
  struct Homes {
    static constexpr std::uint64_t kPlaces = 1ULL << 32;
    std::uint64_t first_hash = 0;
    int shift = 0;
    std::uint64_t border = kPlaces;  // places from here up have their homes in the new array
    std::uint64_t old_scale = 0;  // buckets per 2^32 places
    std::uint64_t new_scale = 0;

    [[nodiscard]] std::uint64_t PlaceOf(std::uint64_t key) const { return (Mix64(key) - first_hash) >> shift; }
    [[nodiscard]] std::uint32_t HomeOfPlace(std::uint64_t place) const {
      return static_cast<std::uint32_t>((place * (place >= border ? new_scale : old_scale)) >> 32);
    }
    [[nodiscard]] std::uint32_t Of(std::uint64_t key) const { return HomeOfPlace(PlaceOf(key)); }
  };

 private:
  [[nodiscard]] Bucket* buckets() const { return reinterpret_cast<Bucket*>(pages_.data()); }
  [[nodiscard]] std::uint64_t ScaleOf(std::uint64_t buckets) const;
  void Make(std::uint64_t keys);
  void BeginGrowth();
  void MoveLastBucket();
  void PrepareDownTo(std::uint64_t bucket);
  void Place(std::uint64_t key, std::uint32_t row, std::uint32_t home);
  static int LastSlot(const Bucket& bucket);
  static void RemoveSlot(Bucket* bucket, int slot, int last);

  VshardRange vshards_;
  void (*find_)(const Bucket*, const Homes&, const std::uint64_t*, std::size_t, std::uint32_t*, const RowPlaces&);
  Homes homes_;
  Pages pages_;
  std::uint64_t usable_ = 0;    // buckets there are, those past the last home included
  std::uint64_t capacity_ = 0;  // of the old array, in buckets
  std::uint64_t grown_ = 0;     // of the new array; capacity_ when none is under way
  std::uint64_t unmoved_ = 0;   // buckets of the old array whose keys have their homes there still
  std::uint64_t prepared_ = 0;  // byte from which on the new array's pages are prepared; 0 = none are
  std::uint64_t size_ = 0;
  struct Moving {
    Slot slot;
    std::uint32_t home;
  };
  std::vector<Moving> moving_;  // scratch of MoveLastBucket
};

}  // namespace gatemill::ps
