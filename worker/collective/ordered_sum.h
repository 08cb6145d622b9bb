// The sum in rank order: out[i] = ((parts[0][i] + parts[1][i]) + parts[2][i]) + ...
//
// Every host implementation of Collective adds with this function, so that a sum has the same bits whoever makes it.
// Thread safety: pure function.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

namespace gatemill::collective {

// parts: one pointer per rank, in rank order, each to out.size() values. `out` may be one of the parts.
template <typename T>
void SumInRankOrder(std::span<const T* const> parts, std::span<T> out) {
  constexpr std::size_t kBlock = 1024;  // values that stay in the first-level cache while all parts are added
  std::array<T, kBlock> sums;
  for (std::size_t begin = 0; begin < out.size(); begin += kBlock) {
    const std::size_t count = std::min(kBlock, out.size() - begin);
    std::copy_n(parts[0] + begin, count, sums.begin());
    for (const T* part : parts.subspan(1)) {
      for (std::size_t i = 0; i < count; ++i) sums[i] += part[begin + i];
    }
    std::copy_n(sums.begin(), count, out.begin() + static_cast<std::ptrdiff_t>(begin));
  }
}

}  // namespace gatemill::collective
