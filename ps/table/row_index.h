// Key -> row number, in memory: open addressing, one segment per vshard.
//
//   const std::uint64_t hash = Mix64(key);
//   index.Prefetch(hash);                       // for a batch of keys, then
//   std::uint32_t row = index.Find(key, hash);  // kNoRow when there is none
//
// A segment grows alone, by a quarter, so an insert never waits for more than a 1024th of the table, and little memory
// stays unused. A slot is 12 bytes (key and row number), so a lookup that hits touches one or two cache lines; row
// number kNoRow marks an empty slot, which leaves every uint64 a legal key. Thread safety: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/keys.h"

namespace gatemill::ps {

class RowIndex {
 public:
  static constexpr std::uint32_t kNoRow = ~0U;

  struct [[gnu::packed, gnu::aligned(4)]] Slot {
    std::uint64_t key;
    std::uint32_t row;
  };

  RowIndex() : segments_(kNumVshards) {}

  // `hash` is Mix64(key) throughout.
  void Prefetch(std::uint64_t hash) const {
    const Segment& segment = segments_[SegmentOf(hash)];
    if (segment.capacity != 0) __builtin_prefetch(&segment.slots[HomeOf(segment, hash)]);
  }
  [[nodiscard]] std::uint32_t Find(std::uint64_t key, std::uint64_t hash) const;
  void Insert(std::uint64_t key, std::uint64_t hash, std::uint32_t row);  // `key` must be absent
  void Clear();

  // The occupied slots of one vshard, appended in no particular order.
  void Collect(std::uint32_t vshard, std::vector<Slot>* slots) const;
  [[nodiscard]] std::uint64_t memory_bytes() const;

 private:
  struct Segment {
    std::unique_ptr<Slot[]> slots;
    std::uint32_t capacity = 0;
    std::uint32_t used = 0;
  };

  // The top bits of the hash are VshardOf(key), the following 32 the place within the segment.
  static std::size_t SegmentOf(std::uint64_t hash) { return hash >> 54; }
  static std::uint32_t HomeOf(const Segment& segment, std::uint64_t hash) {
    return static_cast<std::uint32_t>((((hash << 10) >> 32) * segment.capacity) >> 32);
  }
  static void Place(Segment* segment, const Slot& slot, std::uint64_t hash);
  static void Grow(Segment* segment);

  std::vector<Segment> segments_;
  std::uint64_t slot_bytes_ = 0;
};

}  // namespace gatemill::ps
