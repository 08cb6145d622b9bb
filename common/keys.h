// Keys: what a feature value becomes before it reaches a table.
//
// key = XXH3-64 of the value's canonical text, seeded with its table's salt. All 64 bits are kept.
// Canonical text: a decimal number loses what does not change its value ("2.0" -> "2", "0.50" -> "0.5", "-0" -> "0"),
// so that the integer 2, the string "2" and the float 2.0 have one key, from CSV or Parquet. Text with leading zeros
// or a plus sign ("007", "+7") or an exponent ("1e3") is not canonical decimal text and is taken as it is.
//
// vshard: one of kNumVshards fixed buckets of a table's keys; shards own contiguous ranges of them.
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <string_view>

namespace gatemill {

inline constexpr std::uint32_t kNumVshards = 1024;

// The salt of a table: XXH3-64 of its name.
std::uint64_t TableSalt(std::string_view table_name);

std::uint64_t KeyOfText(std::string_view value, std::uint64_t salt);
std::uint64_t KeyOfInt(std::int64_t value, std::uint64_t salt);
// The shortest decimal text that reads back as `value`, canonical as above.
std::uint64_t KeyOfDouble(double value, std::uint64_t salt);

// The 64-bit finalizer of MurmurHash3 (Appleby, public domain): a bijection whose every output bit depends on every
// input bit.
constexpr std::uint64_t Mix64(std::uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  x ^= x >> 33;
  return x;
}

// Mixed first, because keys made by hash_buckets are small numbers.
constexpr std::uint32_t VshardOf(std::uint64_t key) { return static_cast<std::uint32_t>(Mix64(key) >> 54); }

// The shard that owns `vshard` among `num_shards` (1 to kNumVshards): contiguous ranges of equal size within one.
constexpr std::uint32_t ShardOfVshard(std::uint32_t vshard, std::uint32_t num_shards) {
  return vshard * num_shards / kNumVshards;
}
// The smallest vshard of `shard`; of `num_shards` itself: kNumVshards.
constexpr std::uint32_t FirstVshardOf(std::uint32_t shard, std::uint32_t num_shards) {
  return (shard * kNumVshards + num_shards - 1) / num_shards;
}
constexpr std::uint32_t ShardOf(std::uint64_t key, std::uint32_t num_shards) {
  return ShardOfVshard(VshardOf(key), num_shards);
}

// The shared row that an unseen `key` reads: 0 to oov_buckets - 1. Its key in the table's oov companion.
constexpr std::uint64_t OovBucketOf(std::uint64_t key, std::uint32_t oov_buckets) {
  return Mix64(key ^ 0x9e3779b97f4a7c15ULL) % oov_buckets;
}

}  // namespace gatemill
