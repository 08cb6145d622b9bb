#include "ps/table/row_index.h"

namespace gatemill::ps {
namespace {

constexpr std::uint32_t kMinCapacity = 4;

// Above this many rows a segment grows: four fifths of its slots, and never all of them, so that a probe always ends.
std::uint32_t MaxUsed(std::uint32_t capacity) { return capacity - capacity / 5 - 1; }

}  // namespace

std::uint32_t RowIndex::Find(std::uint64_t key, std::uint64_t hash) const {
  const Segment& segment = segments_[SegmentOf(hash)];
  if (segment.capacity == 0) return kNoRow;
  std::uint32_t at = HomeOf(segment, hash);
  while (true) {
    const Slot& slot = segment.slots[at];
    if (slot.row == kNoRow || slot.key == key) return slot.row;
    if (++at == segment.capacity) at = 0;
  }
}

void RowIndex::Insert(std::uint64_t key, std::uint64_t hash, std::uint32_t row) {
  Segment& segment = segments_[SegmentOf(hash)];
  if (segment.capacity == 0 || segment.used >= MaxUsed(segment.capacity)) {
    slot_bytes_ -= segment.capacity * sizeof(Slot);
    Grow(&segment);
    slot_bytes_ += segment.capacity * sizeof(Slot);
  }
  Place(&segment, {.key = key, .row = row}, hash);
  ++segment.used;
}

void RowIndex::Clear() {
  for (Segment& segment : segments_) segment = {};
  slot_bytes_ = 0;
}

void RowIndex::Collect(std::uint32_t vshard, std::vector<Slot>* slots) const {
  const Segment& segment = segments_[vshard];
  for (std::uint32_t i = 0; i < segment.capacity; ++i) {
    if (segment.slots[i].row != kNoRow) slots->push_back(segment.slots[i]);
  }
}

std::uint64_t RowIndex::memory_bytes() const { return slot_bytes_ + segments_.capacity() * sizeof(Segment); }

void RowIndex::Place(Segment* segment, const Slot& slot, std::uint64_t hash) {
  std::uint32_t at = HomeOf(*segment, hash);
  while (segment->slots[at].row != kNoRow) {
    if (++at == segment->capacity) at = 0;
  }
  segment->slots[at] = slot;
}

void RowIndex::Grow(Segment* segment) {
  Segment grown;
  grown.capacity = segment->capacity == 0 ? kMinCapacity : segment->capacity + segment->capacity / 4 + 1;
  grown.used = segment->used;
  grown.slots = std::make_unique_for_overwrite<Slot[]>(grown.capacity);
  for (std::uint32_t i = 0; i < grown.capacity; ++i) grown.slots[i].row = kNoRow;
  for (std::uint32_t i = 0; i < segment->capacity; ++i) {
    const Slot& slot = segment->slots[i];
    if (slot.row != kNoRow) Place(&grown, slot, Mix64(slot.key));
  }
  *segment = std::move(grown);
}

}  // namespace gatemill::ps
