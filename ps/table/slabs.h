// Fixed-size records by number, in slabs that never move: a table grows without copying itself. The first slab starts
// small and doubles until it is whole, so that a small table stays small.
//
//   Slabs slabs(64, 16384);
//   slabs.Reserve(number + 1);
//   std::byte* record = slabs.At(number);   // valid until the next Reserve, for records of whole slabs until Clear
//
// Records are uninitialized until written. A slab starts on a cache line. Thread safety: none.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace gatemill::ps {

class Slabs {
 public:
  // slab_records: of a whole slab, a power of two.
  Slabs(std::size_t record_bytes, std::size_t slab_records)
      : record_bytes_(record_bytes), shift_(std::countr_zero(slab_records)) {}

  [[nodiscard]] std::byte* At(std::uint64_t number) const {
    return slabs_[number >> shift_].get() + (number & ((1ULL << shift_) - 1)) * record_bytes_;
  }

  // Makes room for records 0 to count - 1.
  void Reserve(std::uint64_t count) {
    while (capacity_ < count) {
      const std::uint64_t whole = 1ULL << shift_;
      if (capacity_ >= whole) {
        slabs_.push_back(Allocate(whole * record_bytes_));
        capacity_ += whole;
      } else {
        GrowFirst(std::min(whole, std::max(capacity_ * 2, kFirstRecords)));
      }
    }
  }

  void Clear() {
    slabs_.clear();
    capacity_ = 0;
  }
  [[nodiscard]] std::uint64_t memory_bytes() const {
    return capacity_ * record_bytes_ + slabs_.capacity() * sizeof(slabs_[0]);
  }

 private:
  static constexpr std::uint64_t kFirstRecords = 16;
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(std::byte* bytes) const { ::operator delete(bytes, kAlignment); }
  };
  using Slab = std::unique_ptr<std::byte[], Free>;

  static Slab Allocate(std::size_t bytes) { return Slab(static_cast<std::byte*>(::operator new(bytes, kAlignment))); }

  void GrowFirst(std::uint64_t count) {
    Slab grown = Allocate(count * record_bytes_);
    if (capacity_ != 0) std::memcpy(grown.get(), slabs_[0].get(), capacity_ * record_bytes_);
    slabs_.clear();
    slabs_.push_back(std::move(grown));
    capacity_ = count;
  }

  std::size_t record_bytes_;
  int shift_;  // records of a whole slab, as a power of two
  std::vector<Slab> slabs_;
  std::uint64_t capacity_ = 0;  // records
};

}  // namespace gatemill::ps
