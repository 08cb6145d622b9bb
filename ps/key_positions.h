// Where each of a batch of keys stands in a list: a scratch hash set that is filled and thrown away for every batch.
//
//   positions.Reset(keys.size());
//   for (std::uint32_t i = 0; i < keys.size(); ++i)
//     if (positions.FindOrInsert(keys[i], keys, i) != i) ...   // keys[i] stood there already
//
// It keeps positions only; the keys stay with the caller. Thread safety: none.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/keys.h"

namespace gatemill::ps {

class KeyPositions {
 public:
  // Forgets everything; makes room for `max_keys` different keys.
  void Reset(std::size_t max_keys) {
    const std::size_t capacity = std::bit_ceil(max_keys * 2 + 1);
    slots_.resize(capacity);
    std::fill(slots_.begin(), slots_.end(), kEmpty);
    mask_ = capacity - 1;
  }

  // The position of `key`, or `next` when it is new; then it is remembered there. keys[p] is the key of every position
  // p that was remembered.
  std::uint32_t FindOrInsert(std::uint64_t key, std::span<const std::uint64_t> keys, std::uint32_t next) {
    std::size_t at = Mix64(key) & mask_;  // the low bits: the high ones are alike within a shard
    while (slots_[at] != kEmpty) {
      if (keys[slots_[at]] == key) return slots_[at];
      at = (at + 1) & mask_;
    }
    slots_[at] = next;
    return next;
  }

 private:
  static constexpr std::uint32_t kEmpty = ~0U;
  std::vector<std::uint32_t> slots_;
  std::size_t mask_ = 0;
};

}  // namespace gatemill::ps
