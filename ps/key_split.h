// Which shard gets which keys of a request (common/keys.h: ShardOf), and whether keys are a shard's. With several shards every
// key of every request goes through here at the client and at its shard, so the loops are compiled once per instruction set.
//
//   KeySplit split;
//   split.Assign(keys, num_shards);
//   split.Gather(keys, sent);                       // sent: [n], the keys of shard 0, those of shard 1, ...
//   for (std::uint32_t s = 0; s < num_shards; ++s) Send(s, sent + split.begin(s), split.count(s));
//
// Errors: none; num_shards is 1 to kNumVshards, and there are fewer than 2^32 keys. Thread safety: none of KeySplit; AllOfShard
// is a pure function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ps/table/isa.h"

namespace gatemill::ps {

class KeySplit {
 public:
  // isa: one that this CPU has. Every one gives the same.
  void Assign(std::span<const std::uint64_t> keys, std::uint32_t num_shards, Isa isa = BestIsa());

  // Of shard's keys in the split's order.
  [[nodiscard]] std::uint32_t begin(std::uint32_t shard) const { return begin_[shard]; }
  [[nodiscard]] std::uint32_t count(std::uint32_t shard) const { return begin_[shard + 1] - begin_[shard]; }

  // With one shard the caller's order is the shard's, and places() is empty.
  [[nodiscard]] bool whole() const { return begin_.size() == 2; }
  // [n] The shard of each key, in the caller's order; empty with one shard.
  [[nodiscard]] std::span<const std::uint16_t> shards() const { return shards_; }
  // [n] Place in the caller's order of each key in the split's. A shard's keys keep the caller's order among themselves.
  [[nodiscard]] std::span<const std::uint32_t> places() const { return order_; }
  // [count(shard)] The same of one shard's.
  [[nodiscard]] std::span<const std::uint32_t> places(std::uint32_t shard) const {
    return whole() ? places() : places().subspan(begin(shard), count(shard));
  }

  // keys: those that were assigned; to: [n], in the split's order.
  void Gather(std::span<const std::uint64_t> keys, std::uint64_t* to) const;

 private:
  std::vector<std::uint32_t> begin_;   // [num_shards + 1]
  std::vector<std::uint32_t> order_;   // [n], empty with one shard
  std::vector<std::uint16_t> shards_;  // [n], empty with one shard
};

// Whether every key is `shard`'s among `num_shards`.
bool AllOfShard(std::span<const std::uint64_t> keys, std::uint32_t shard, std::uint32_t num_shards, Isa isa = BestIsa());

}  // namespace gatemill::ps
