#include "ps/key_split.h"

#include <algorithm>

#include "common/keys.h"

namespace gatemill::ps {
namespace {

GM_LOOP void ShardsLoop(const std::uint64_t* keys, std::size_t count, std::uint32_t num_shards, std::uint16_t* shards) {
  for (std::size_t i = 0; i < count; ++i) shards[i] = static_cast<std::uint16_t>(ShardOf(keys[i], num_shards));
}

// How many keys lie outside [first, end) of the vshards.
GM_LOOP std::uint64_t StrangersLoop(const std::uint64_t* keys, std::size_t count, std::uint64_t first, std::uint64_t end) {
  std::uint64_t strangers = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t vshard = VshardOf(keys[i]);
    strangers += static_cast<std::uint64_t>(vshard < first) | static_cast<std::uint64_t>(vshard >= end);
  }
  return strangers;
}

GM_ISA_VARIANTS(Shards, (const std::uint64_t* keys, std::size_t count, std::uint32_t num_shards, std::uint16_t* shards),
                (keys, count, num_shards, shards))
GM_ISA_VARIANTS(Strangers, (const std::uint64_t* keys, std::size_t count, std::uint64_t first, std::uint64_t end),
                (keys, count, first, end))

constexpr IsaVariants<void (*)(const std::uint64_t*, std::size_t, std::uint32_t, std::uint16_t*)> kShards =
    GM_ISA_TABLE(Shards);
constexpr IsaVariants<std::uint64_t (*)(const std::uint64_t*, std::size_t, std::uint64_t, std::uint64_t)> kStrangers =
    GM_ISA_TABLE(Strangers);

}  // namespace

void KeySplit::Assign(std::span<const std::uint64_t> keys, std::uint32_t num_shards, Isa isa) {
  begin_.assign(num_shards + 1, 0);
  const auto n = static_cast<std::uint32_t>(keys.size());
  if (num_shards == 1) {
    begin_[1] = n;
    order_.clear();
    shards_.clear();
    return;
  }
  order_.resize(n);
  shards_.resize(n);
  kShards.For(isa)(keys.data(), n, num_shards, shards_.data());
  const std::uint16_t* shards = shards_.data();
  std::uint32_t* order = order_.data();
  for (std::uint32_t i = 0; i < n; ++i) ++begin_[shards[i] + 1];
  for (std::uint32_t s = 0; s < num_shards; ++s) begin_[s + 1] += begin_[s];
  std::vector<std::uint32_t> next(begin_.begin(), begin_.end() - 1);
  for (std::uint32_t i = 0; i < n; ++i) order[next[shards[i]]++] = i;
}

void KeySplit::Gather(std::span<const std::uint64_t> keys, std::uint64_t* to) const {
  if (whole()) {
    std::copy(keys.begin(), keys.end(), to);
    return;
  }
  for (const std::uint32_t place : places()) *to++ = keys[place];
}

bool AllOfShard(std::span<const std::uint64_t> keys, std::uint32_t shard, std::uint32_t num_shards, Isa isa) {
  return kStrangers.For(isa)(keys.data(), keys.size(), FirstVshardOf(shard, num_shards),
                             FirstVshardOf(shard + 1, num_shards)) == 0;
}

}  // namespace gatemill::ps
