#include "ps/table/row_index.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

namespace gatemill::ps {
namespace {

using Bucket = RowIndex::Bucket;
using Homes = RowIndex::Homes;
using RowPlaces = RowIndex::RowPlaces;

constexpr int kSlots = RowIndex::kSlots;
constexpr std::size_t kBatch = 2048;  // keys whose homes are worked out ahead
constexpr std::size_t kAhead = 16;    // cache lines asked for before they are read
constexpr std::uint64_t kSlackBuckets = 1;  // past the last home, at first
constexpr int kMovedPerInsert = 2;
constexpr std::uint64_t kShrinkBelow = 2;    // made anew when it could hold so many times its keys,
constexpr std::uint64_t kRoomWhenMade = 5;   // and then with room for so many quarters of them
constexpr std::uint64_t kMovedAhead = 8;  // buckets asked for before they are moved
constexpr std::uint64_t kPreparedBytes = 4U << 20;  // of the new array, below the bucket that is written to next

// ~row of the key's slot; 0 when it is not in this bucket. (An unused slot has a zero there, whatever its stale key.)
GM_LOOP std::uint32_t NotRowIn(const Bucket& bucket, std::uint64_t key) {
  std::uint32_t not_row = 0;
  for (int slot = 0; slot < kSlots; ++slot) {
    not_row |= bucket.not_row[slot] & -static_cast<std::uint32_t>(bucket.key[slot] == key);
  }
  return not_row;
}

#if defined(__x86_64__)
// The same by one comparison of the whole cache line. Used slots come first, so of two slots with the key the lower one counts.
[[gnu::target(GM_TARGET_AVX512)]] inline std::uint32_t NotRowInAvx512(const Bucket& bucket, std::uint64_t key) {
  const __mmask8 equal = _mm512_cmpeq_epi64_mask(_mm512_load_si512(&bucket), _mm512_set1_epi64(static_cast<long long>(key)));
  const auto slot = static_cast<unsigned>(std::countr_zero(static_cast<unsigned>(equal) | 1U << kSlots));
  std::uint32_t not_row = 0;
  std::memcpy(&not_row, reinterpret_cast<const std::byte*>(&bucket) + offsetof(Bucket, not_row) + slot * sizeof(not_row),
              sizeof(not_row));  // of no slot: what lies behind the last one, `beyond`
  return not_row & -static_cast<std::uint32_t>(slot != kSlots);
}
#endif

// kLanes: floats of a register, as GM_ISA_LANE_VARIANTS has it.
template <int kLanes>
GM_LOOP std::uint32_t Look(const Bucket& bucket, std::uint64_t key) {
#if defined(__x86_64__)
  if constexpr (kLanes == 16) return NotRowInAvx512(bucket, key);
#endif
  return NotRowIn(bucket, key);
}

// No branch depends on what a cache line holds: a wrong guess would wait for memory. Keys that are not at home are listed
// and looked for in the next buckets afterwards, together.
template <int kLanes>
GM_LOOP void FindLoop(const Bucket* buckets, const Homes& homes_of, const std::uint64_t* keys, std::size_t count,
                      std::uint32_t* rows, const RowPlaces& places) {
  std::uint32_t homes[kBatch + kAhead];
  std::uint32_t listed[kBatch + 1];
  // Without places a line that is in the cache: asking for an address that is not mapped walks the page tables each time.
  const std::byte* first = places.stride == 0 ? reinterpret_cast<const std::byte*>(buckets) : places.first;
  const std::size_t stride = places.stride;
  for (std::size_t begin = 0; begin < count; begin += kBatch) {
    const std::size_t n = std::min(kBatch, count - begin);
    for (std::size_t i = 0; i < n; ++i) homes[i] = homes_of.Of(keys[begin + i]);
    for (std::size_t i = n; i < n + kAhead; ++i) homes[i] = homes[n - 1];
    for (std::size_t i = 0; i < kAhead; ++i) __builtin_prefetch(&buckets[homes[i]]);
    std::size_t left = 0;
    for (std::size_t i = 0; i < n; ++i) {
      __builtin_prefetch(&buckets[homes[i + kAhead]]);
      const Bucket& bucket = buckets[homes[i]];
      const std::uint32_t not_row = Look<kLanes>(bucket, keys[begin + i]);
      rows[begin + i] = ~not_row;
      __builtin_prefetch(first + (not_row == 0 ? 0 : ~not_row) * stride, 0, 2);
      listed[left] = static_cast<std::uint32_t>(i);
      left += static_cast<std::size_t>(not_row == 0) & static_cast<std::size_t>(bucket.beyond != 0);
    }
    while (left != 0) {
      std::size_t still = 0;
      for (std::size_t j = 0; j < std::min(left, kAhead); ++j) __builtin_prefetch(&buckets[homes[listed[j]] + 1]);
      for (std::size_t j = 0; j < left; ++j) {
        if (j + kAhead < left) __builtin_prefetch(&buckets[homes[listed[j + kAhead]] + 1]);
        const std::uint32_t i = listed[j];
        const Bucket& bucket = buckets[++homes[i]];
        const std::uint32_t not_row = Look<kLanes>(bucket, keys[begin + i]);
        rows[begin + i] = ~not_row;
        listed[still] = i;
        still += static_cast<std::size_t>(not_row == 0) & static_cast<std::size_t>(bucket.beyond != 0);
      }
      left = still;
    }
  }
}

GM_ISA_LANE_VARIANTS(Find,
                     (const Bucket* buckets, const Homes& homes_of, const std::uint64_t* keys, std::size_t count,
                      std::uint32_t* rows, const RowPlaces& places),
                     (buckets, homes_of, keys, count, rows, places))

constexpr IsaVariants<void (*)(const Bucket*, const Homes&, const std::uint64_t*, std::size_t, std::uint32_t*,
                               const RowPlaces&)>
    kFind = GM_ISA_TABLE(Find);

// Above so many keys the index grows.
std::uint64_t MaxKeys(std::uint64_t buckets) { return buckets * kSlots * 25 / 32; }

}  // namespace

RowIndex::RowIndex(VshardRange vshards, Isa isa, PagePreparer* preparer)
    : vshards_(vshards), find_(kFind.For(isa)), pages_(preparer) {
  homes_.first_hash = static_cast<std::uint64_t>(vshards.first) << 54;
  homes_.shift = 22 + std::bit_width(vshards.end - vshards.first - 1);
}

// Rounded down, so that the largest place is within.
std::uint64_t RowIndex::ScaleOf(std::uint64_t buckets) const {
  const std::uint64_t places = static_cast<std::uint64_t>(vshards_.end - vshards_.first) << (54 - homes_.shift);
  return static_cast<std::uint64_t>((static_cast<unsigned __int128>(buckets) << 32) / places);
}

void RowIndex::Find(std::span<const std::uint64_t> keys, std::uint32_t* rows, const RowPlaces& places) const {
  if (size_ == 0) {
    std::fill_n(rows, keys.size(), kNoRow);
  } else {
    find_(buckets(), homes_, keys.data(), keys.size(), rows, places);
  }
}

std::uint32_t RowIndex::Find(std::uint64_t key) const {
  if (size_ == 0) return kNoRow;
  for (const Bucket* bucket = &buckets()[homes_.Of(key)];; ++bucket) {
    const std::uint32_t not_row = NotRowIn(*bucket, key);
    if (not_row != 0 || bucket->beyond == 0) return ~not_row;
  }
}

std::uint32_t RowIndex::FindOrInsert(std::uint64_t key, std::uint32_t row, bool* created) {
  const std::uint32_t found = Find(key);
  *created = found == kNoRow;
  if (*created) Insert(key, row);
  return *created ? row : found;
}

void RowIndex::Insert(std::uint64_t key, std::uint32_t row) {
  if (grown_ == capacity_ && size_ >= MaxKeys(capacity_)) BeginGrowth();
  for (int i = 0; i < kMovedPerInsert && grown_ != capacity_; ++i) MoveLastBucket();
  Place(key, row, homes_.Of(key));
  ++size_;
}

void RowIndex::Erase(std::uint64_t key) {
  for (Bucket* bucket = &buckets()[homes_.Of(key)];; ++bucket) {
    for (int slot = 0; slot < kSlots && bucket->not_row[slot] != 0; ++slot) {
      if (bucket->key[slot] != key) continue;
      RemoveSlot(bucket, slot, LastSlot(*bucket));
      --size_;
      return;
    }
    --bucket->beyond;
  }
}

void RowIndex::Clear() {
  pages_.Clear();
  homes_.border = Homes::kPlaces;
  homes_.old_scale = homes_.new_scale = 0;
  usable_ = capacity_ = grown_ = unmoved_ = size_ = 0;
}

void RowIndex::Collect(std::uint32_t vshard, std::vector<Slot>* slots) const {
  if (size_ == 0) return;
  const std::uint64_t first = static_cast<std::uint64_t>(vshard - vshards_.first) << (54 - homes_.shift);
  const std::uint64_t last = (static_cast<std::uint64_t>(vshard + 1 - vshards_.first) << (54 - homes_.shift)) - 1;
  const std::uint32_t last_home = homes_.HomeOfPlace(last);
  for (std::uint32_t at = homes_.HomeOfPlace(first); at <= last_home || buckets()[at - 1].beyond != 0; ++at) {
    const Bucket& bucket = buckets()[at];
    for (int slot = 0; slot < kSlots && bucket.not_row[slot] != 0; ++slot) {
      if (VshardOf(bucket.key[slot]) == vshard) slots->push_back({bucket.key[slot], ~bucket.not_row[slot]});
    }
  }
}

void RowIndex::Renumber(const std::function<std::uint32_t(std::uint32_t)>& new_row) {
  for (std::uint64_t at = 0; at < usable_; ++at) {
    Bucket& bucket = buckets()[at];
    for (int slot = 0; slot < kSlots && bucket.not_row[slot] != 0; ++slot) bucket.not_row[slot] = ~new_row(~bucket.not_row[slot]);
  }
  if (size_ * kShrinkBelow >= MaxKeys(capacity_)) return;
  const std::uint64_t size = size_;
  if (size == 0) return Clear();
  std::vector<Slot> slots;
  slots.reserve(size);
  for (std::uint32_t vshard = vshards_.first; vshard < vshards_.end; ++vshard) Collect(vshard, &slots);
  Clear();
  Make(size * kRoomWhenMade / 4);
  for (const Slot& slot : slots) Insert(slot.key, slot.row);
}

void RowIndex::Reserve(std::uint64_t keys) {
  if (size_ != 0 || keys <= MaxKeys(capacity_)) return;
  Clear();
  Make(keys);
}

// Of its full size at once.
void RowIndex::Make(std::uint64_t keys) {
  usable_ = keys * 32 / 25 / kSlots + 1 + kSlackBuckets;
  capacity_ = grown_ = usable_ - kSlackBuckets;
  pages_.Reserve(usable_ * sizeof(Bucket));
  homes_.old_scale = homes_.new_scale = ScaleOf(capacity_);
}

std::uint64_t RowIndex::memory_bytes() const {
  std::uint64_t touched = usable_;
  if (grown_ != capacity_) {  // the new array is touched from its end down
    const std::uint64_t lowest = std::max<std::uint64_t>((homes_.border * homes_.new_scale) >> 32, capacity_);
    const std::uint64_t prepared = prepared_ == 0 ? usable_ : prepared_ / sizeof(Bucket);
    touched = capacity_ + (usable_ - std::min({usable_, lowest, prepared}));
  }
  return Pages::Touched(touched * sizeof(Bucket));
}

void RowIndex::BeginGrowth() {
  grown_ = capacity_ + std::max<std::uint64_t>(1, capacity_ / 4);
  if (grown_ + kSlackBuckets > usable_) {
    usable_ = grown_ + kSlackBuckets;
    pages_.Reserve(usable_ * sizeof(Bucket));
  }
  homes_.new_scale = ScaleOf(grown_);
  prepared_ = pages_.prepares(usable_ * sizeof(Bucket)) ? Pages::Touched(usable_ * sizeof(Bucket)) : 0;
  unmoved_ = capacity_;
  if (unmoved_ != 0) return;
  capacity_ = grown_;  // the first
  homes_.old_scale = homes_.new_scale;
}

// Takes out the keys whose old home is the last bucket that is not moved yet, moves the border below them, and puts them
// in again.
void RowIndex::MoveLastBucket() {
  const std::uint64_t home = --unmoved_;
  const std::uint64_t ahead = home - std::min<std::uint64_t>(home, kMovedAhead);
  __builtin_prefetch(&buckets()[ahead], 1);
  const std::uint64_t ahead_new = ahead * grown_ / capacity_;
  __builtin_prefetch(&buckets()[ahead_new], 1);
  __builtin_prefetch(&buckets()[ahead_new + 1], 1);  // five new buckets for each four old ones
  if (prepared_ != 0) PrepareDownTo(ahead_new);
  const std::uint64_t first_place = ((home << 32) + homes_.old_scale - 1) / homes_.old_scale;
  moving_.clear();
  for (std::uint64_t at = home;; ++at) {
    Bucket* bucket = &buckets()[at];
    const bool more = bucket->beyond != 0;
    int last = LastSlot(*bucket);
    for (int slot = last; slot >= 0; --slot) {
      const std::uint64_t place = homes_.PlaceOf(bucket->key[slot]);
      if (place < first_place || place >= homes_.border) continue;
      moving_.push_back({{bucket->key[slot], ~bucket->not_row[slot]},
                         static_cast<std::uint32_t>((place * homes_.new_scale) >> 32)});
      RemoveSlot(bucket, slot, last--);
      for (std::uint64_t passed = home; passed < at; ++passed) --buckets()[passed].beyond;
    }
    if (!more) break;
  }
  homes_.border = first_place;
  for (const Moving& moved : moving_) Place(moved.slot.key, moved.slot.row, moved.home);
  if (unmoved_ != 0) return;
  capacity_ = grown_;
  homes_.old_scale = homes_.new_scale;
  homes_.border = Homes::kPlaces;
  pages_.Filled(capacity_ * sizeof(Bucket));
}

// The new array is touched from its end down, to where the old one ends.
void RowIndex::PrepareDownTo(std::uint64_t bucket) {
  const std::uint64_t at = bucket * sizeof(Bucket);
  const std::uint64_t wanted = (at - std::min(at, kPreparedBytes)) / Pages::kHugeBytes * Pages::kHugeBytes;
  const std::uint64_t from = std::max(wanted, Pages::Touched(capacity_ * sizeof(Bucket)));
  if (from >= prepared_) return;
  pages_.Prepare(from, prepared_);
  prepared_ = from;
}

void RowIndex::Place(std::uint64_t key, std::uint32_t row, std::uint32_t home) {
  for (std::uint64_t at = home;; ++at) {
    if (at == usable_) {
      ++usable_;
      pages_.Reserve(usable_ * sizeof(Bucket));
    }
    Bucket* bucket = &buckets()[at];
    if (bucket->not_row[kSlots - 1] != 0) {
      ++bucket->beyond;
      continue;
    }
    int slot = 0;
    while (bucket->not_row[slot] != 0) ++slot;
    bucket->key[slot] = key;
    bucket->not_row[slot] = ~row;
    return;
  }
}

// The last used one; -1 in an empty bucket.
int RowIndex::LastSlot(const Bucket& bucket) {
  int last = kSlots - 1;
  while (last >= 0 && bucket.not_row[last] == 0) --last;
  return last;
}

// The last used slot takes the place of the one that goes.
void RowIndex::RemoveSlot(Bucket* bucket, int slot, int last) {
  bucket->key[slot] = bucket->key[last];
  bucket->not_row[slot] = bucket->not_row[last];
  bucket->not_row[last] = 0;
}

}  // namespace gatemill::ps
