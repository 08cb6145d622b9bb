#include "worker/train/pooling.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gatemill::train {
namespace {

constexpr std::size_t kBlock = 256;  // values of which the gradients' memory is made ready at a time

// ---- rows as registers ------------------------------------------------------------------------------------------------

// Spelled out: GCC forgets a vector's size that depends on a template's argument.
#define GM_LANES(count)                                                  \
  struct Lanes##count {                                                  \
    using Floats = float __attribute__((vector_size((count) * 4)));      \
    using Ints = std::int32_t __attribute__((vector_size((count) * 4))); \
  };
GM_LANES(1)
GM_LANES(2)
GM_LANES(4)
GM_LANES(8)
GM_LANES(16)

template <typename Floats>
GM_LOOP void Load(const float* from, Floats* floats) {  // a vector as a result would depend on the instruction set
  std::memcpy(floats, from, sizeof(*floats));
}

// Calls body(lanes, first) for pieces that make up [0, dim).
template <typename Body>
GM_LOOP void ForLanes(int dim, const Body& body) {
  int first = 0;
  for (; first + 16 <= dim; first += 16) body(Lanes16(), first);
  if (dim - first >= 8) {
    body(Lanes8(), first);
    first += 8;
  }
  if (dim - first >= 4) {
    body(Lanes4(), first);
    first += 4;
  }
  if (dim - first >= 2) {
    body(Lanes2(), first);
    first += 2;
  }
  if (first < dim) body(Lanes1(), first);
}

// Calls body with the dimension: a constant where it is a common one, so that ForLanes leaves no branches.
template <typename Body>
GM_LOOP void WithDim(int dim, const Body& body) {
  switch (dim) {
    case 4: return body(std::integral_constant<int, 4>());
    case 8: return body(std::integral_constant<int, 8>());
    case 16: return body(std::integral_constant<int, 16>());
    case 32: return body(std::integral_constant<int, 32>());
    case 64: return body(std::integral_constant<int, 64>());
    default: return body(dim);
  }
}

// ---- gather -----------------------------------------------------------------------------------------------------------

template <typename Dim>
GM_LOOP void CopyRow(const float* row, Dim dim, float* out) {
  ForLanes(dim, [&](auto lanes, int first) __attribute__((always_inline)) {
    using F = typename decltype(lanes)::Floats;
    F floats;
    Load(row + first, &floats);
    std::memcpy(out + first, &floats, sizeof(floats));
  });
}

// out = the sum or the maximum of the rows of `count` > 0 slots, then times scale.
template <bool kMax, typename Dim>
GM_LOOP void PoolRows(const std::uint32_t* slots, std::size_t count, const float* rows, float scale, Dim dim, float* out) {
  const auto width = static_cast<std::size_t>(static_cast<int>(dim));
  ForLanes(dim, [&](auto lanes, int first) __attribute__((always_inline)) {
    using F = typename decltype(lanes)::Floats;
    F pooled;
    Load(rows + slots[0] * width + first, &pooled);
    for (std::size_t i = 1; i < count; ++i) {
      F row;
      Load(rows + slots[i] * width + first, &row);
      if constexpr (kMax) {
        pooled = pooled < row ? row : pooled;
      } else {
        pooled += row;
      }
    }
    if constexpr (!kMax) pooled *= scale;
    std::memcpy(out + first, &pooled, sizeof(pooled));
  });
}

template <typename Dim>
GM_LOOP void GatherSingles(const FeatureValues& values, const float* rows, std::size_t begin, std::size_t end, Dim dim,
                           float* x) {
  const std::uint32_t* slots = values.slots;
  const std::size_t x_dim = values.x_dim;
  const auto width = static_cast<std::size_t>(static_cast<int>(dim));
  for (std::size_t r = begin; r < end; ++r) {
    CopyRow(rows + slots[r] * width, dim, x + r * x_dim);
  }
}

template <bool kMax, typename Dim>
GM_LOOP void GatherLists(const FeatureValues& values, const float* rows, std::size_t begin, std::size_t end, Dim dim,
                         float* x) {
  const auto width = static_cast<std::size_t>(static_cast<int>(dim));
  for (std::size_t r = begin; r < end; ++r) {
    const std::uint32_t first = values.offsets[r];
    const std::uint32_t count = values.offsets[r + 1] - first;
    if (count == 0) {
      std::memset(x + r * values.x_dim, 0, width * sizeof(float));
      continue;
    }
    const float scale = values.pooling == Pooling::kMean ? 1.0F / static_cast<float>(count) : 1.0F;
    PoolRows<kMax>(values.slots + first, count, rows, scale, dim, x + r * values.x_dim);
  }
}

GM_LOOP void GatherLoop(const FeatureValues& values, const float* rows, std::size_t begin, std::size_t end, float* x) {
  WithDim(values.dim, [&](auto dim) __attribute__((always_inline)) {
    if (values.offsets == nullptr) {
      GatherSingles(values, rows, begin, end, dim, x);
    } else if (values.pooling == Pooling::kMax) {
      GatherLists<true>(values, rows, begin, end, dim, x);
    } else {
      GatherLists<false>(values, rows, begin, end, dim, x);
    }
  });
}

// ---- scatter ----------------------------------------------------------------------------------------------------------

// The positions of the slots in [first, first + width), in `picked` of 16 places more than `count`; returns how many.
using Pick = std::size_t (*)(const std::uint32_t* slots, std::size_t count, std::uint32_t first, std::uint32_t width,
                             std::uint32_t* picked);

// Whether a slot is in the range is as good as random: no branch asks, each position is written, and the next overwrites
// what does not stay.
GM_LOOP std::size_t PickFrom(std::size_t begin, std::size_t found, const std::uint32_t* slots, std::size_t count,
                             std::uint32_t first, std::uint32_t width, std::uint32_t* picked) {
  for (std::size_t i = begin; i < count; ++i) {
    picked[found] = static_cast<std::uint32_t>(i);
    found += slots[i] - first < width ? 1 : 0;
  }
  return found;
}
std::size_t PickOneByOne(const std::uint32_t* slots, std::size_t count, std::uint32_t first, std::uint32_t width,
                         std::uint32_t* picked) {
  return PickFrom(0, 0, slots, count, first, width, picked);
}

#if defined(__x86_64__)
[[gnu::target(GM_TARGET_AVX512)]] std::size_t PickSixteen(const std::uint32_t* slots, std::size_t count,
                                                          std::uint32_t first, std::uint32_t width,
                                                          std::uint32_t* picked) {
  const __m512i firsts = _mm512_set1_epi32(static_cast<int>(first));
  const __m512i widths = _mm512_set1_epi32(static_cast<int>(width));
  __m512i positions = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  std::size_t found = 0;
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m512i places = _mm512_sub_epi32(_mm512_loadu_si512(slots + i), firsts);
    const __mmask16 own = _mm512_cmplt_epu32_mask(places, widths);
    _mm512_storeu_si512(picked + found, _mm512_maskz_compress_epi32(own, positions));
    found += static_cast<std::size_t>(__builtin_popcount(own));
    positions = _mm512_add_epi32(positions, _mm512_set1_epi32(16));
  }
  return PickFrom(i, found, slots, count, first, width, picked);
}
#endif

// The slot behind the last of the picked ones, or of all.
template <bool kPicked>
GM_LOOP std::uint32_t EndOf(const std::uint32_t* slots, const std::uint32_t* picked, std::size_t count) {
  std::uint32_t last = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t slot = slots[kPicked ? picked[i] : i];
    last = slot > last ? slot : last;
  }
  return count == 0 ? 0 : last + 1;
}

template <bool kScaled, typename Dim>
GM_LOOP void AddRow(const float* grad, float scale, Dim dim, float* row) {
  ForLanes(dim, [&](auto lanes, int first) __attribute__((always_inline)) {
    using F = typename decltype(lanes)::Floats;
    F added;
    Load(grad + first, &added);
    if constexpr (kScaled) added *= scale;
    F sum;
    Load(row + first, &sum);
    sum += added;
    std::memcpy(row + first, &sum, sizeof(sum));
  });
}

// The picked values [0, count), or all, of a feature with one value a sample; pointers are to the first of a block.
template <bool kPicked, typename Dim>
GM_LOOP void AddSingles(const std::uint32_t* slots, const std::uint32_t* picked, std::size_t count, const float* grad_x,
                        std::size_t x_dim, Dim dim, float* grads) {
  const auto width = static_cast<std::size_t>(static_cast<int>(dim));
  const auto position = [&](std::size_t i) __attribute__((always_inline)) { return kPicked ? picked[i] : i; };
  for (std::size_t i = 0; i < count; ++i) {
    AddRow<false>(grad_x + position(i) * x_dim, 1.0F, dim, grads + slots[position(i)] * width);
  }
}

// The part that the values at `places` of a list have in the gradient of its maximum: of each element, that of the first
// value that has it. `places(i)` for i < count are some or all of the list's, in order.
template <typename Places, typename Dim>
GM_LOOP void AddMaxima(const std::uint32_t* list, std::size_t length, const float* rows, const Places& places,
                       std::size_t count, const float* grad, Dim dim, float* grads) {
  const auto width = static_cast<std::size_t>(static_cast<int>(dim));
  ForLanes(dim, [&](auto lanes, int first) __attribute__((always_inline)) {
    using F = typename decltype(lanes)::Floats;
    using I = typename decltype(lanes)::Ints;
    F best;
    Load(rows + list[0] * width + first, &best);
    I place = {};  // of the best
    for (std::size_t v = 1; v < length; ++v) {
      F row;
      Load(rows + list[v] * width + first, &row);
      const I better = row > best;
      best = better ? row : best;
      place = better ? I{} + static_cast<std::int32_t>(v) : place;
    }
    F added;
    Load(grad + first, &added);
    for (std::size_t i = 0; i < count; ++i) {
      float* row = grads + list[places(i)] * width + first;
      F sum;
      Load(row, &sum);
      sum = place == static_cast<std::int32_t>(places(i)) ? sum + added : sum;
      std::memcpy(row, &sum, sizeof(sum));
    }
  });
}

// The picked values of lists, or all from `begin` on; `sample` is one that does not come after them, and moves on.
template <bool kPicked, bool kMax, typename Dim>
GM_LOOP void AddLists(const FeatureValues& values, const float* rows, std::size_t begin, const std::uint32_t* picked,
                      std::size_t count, const float* grad_x, Dim dim, std::size_t* sample, float* grads) {
  const auto width = static_cast<std::size_t>(static_cast<int>(dim));
  const auto value = [&](std::size_t i) __attribute__((always_inline)) { return begin + (kPicked ? picked[i] : i); };
  std::size_t r = *sample;
  for (std::size_t i = 0; i < count;) {
    while (values.offsets[r + 1] <= value(i)) ++r;
    const std::size_t first = values.offsets[r];
    const std::size_t end = values.offsets[r + 1];
    const float* grad = grad_x + r * values.x_dim;
    std::size_t next = i + 1;
    while (next < count && value(next) < end) ++next;
    if constexpr (kMax) {
      const auto places = [&](std::size_t k) __attribute__((always_inline)) { return value(i + k) - first; };
      AddMaxima(values.slots + first, end - first, rows, places, next - i, grad, dim, grads);
    } else {
      const float scale = values.pooling == Pooling::kMean ? 1.0F / static_cast<float>(end - first) : 1.0F;
      for (std::size_t k = i; k < next; ++k) AddRow<true>(grad, scale, dim, grads + values.slots[value(k)] * width);
    }
    i = next;
  }
  *sample = r;
}

// Slots are numbered by first use, so that the memory that a block of values begins to use is small: it is zeroed just
// before, and stays in the cache.
template <bool kPicked, typename Dim>
GM_LOOP void ScatterBlocks(const FeatureValues& values, const float* rows, std::size_t samples, const float* grad_x,
                           Dim dim, Pick pick, GradientRows* grads) {
  std::uint32_t picked[kBlock + 16];
  std::size_t sample = 0;
  const std::size_t count = values.offsets == nullptr ? samples : values.offsets[samples];
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const std::uint32_t* slots = values.slots + begin;
    std::size_t block = std::min(kBlock, count - begin);
    if constexpr (kPicked) block = pick(slots, block, grads->begin, grads->end - grads->begin, picked);
    ZeroUpTo(EndOf<kPicked>(slots, picked, block), dim, grads);
    if (values.offsets == nullptr) {
      AddSingles<kPicked>(slots, picked, block, grad_x + begin * values.x_dim, values.x_dim, dim, grads->grads);
    } else if (values.pooling == Pooling::kMax) {
      AddLists<kPicked, true>(values, rows, begin, picked, block, grad_x, dim, &sample, grads->grads);
    } else {
      AddLists<kPicked, false>(values, rows, begin, picked, block, grad_x, dim, &sample, grads->grads);
    }
  }
}

GM_LOOP void ScatterLoop(const FeatureValues& values, const float* rows, std::size_t samples, const float* grad_x,
                         bool all, GradientRows* grads, Pick pick) {
  WithDim(values.dim, [&](auto dim) __attribute__((always_inline)) {
    if (all) {
      ScatterBlocks<false>(values, rows, samples, grad_x, dim, pick, grads);
    } else {
      ScatterBlocks<true>(values, rows, samples, grad_x, dim, pick, grads);
    }
  });
}

GM_ISA_VARIANTS(Gather,
                (const FeatureValues& values, const float* rows, std::size_t begin, std::size_t end, float* x),
                (values, rows, begin, end, x))
GM_ISA_VARIANTS(Scatter,
                (const FeatureValues& values, const float* rows, std::size_t samples, const float* grad_x, bool all,
                 GradientRows* grads, Pick pick),
                (values, rows, samples, grad_x, all, grads, pick))

// A set of kernels: each picks as its instruction set does best.
#define GM_POOLING_KERNELS(suffix, pick)                                                                             \
  {                                                                                                                 \
    .gather = Gather##suffix,                                                                                       \
    .scatter = [](const FeatureValues& values, const float* rows, std::size_t samples, const float* grad_x, bool all, \
                  GradientRows* grads) { Scatter##suffix(values, rows, samples, grad_x, all, grads, pick); },       \
  }
constexpr PoolingKernels kBaseline = GM_POOLING_KERNELS(Baseline, PickOneByOne);
#if defined(__x86_64__)
constexpr PoolingKernels kAvx2 = GM_POOLING_KERNELS(Avx2, PickOneByOne);
constexpr PoolingKernels kAvx512 = GM_POOLING_KERNELS(Avx512, PickSixteen);
#endif

}  // namespace

void ZeroUpTo(std::uint32_t end, int dim, GradientRows* grads) {
  if (end <= grads->written) return;
  const auto width = static_cast<std::size_t>(dim);
  std::memset(grads->grads + grads->written * width, 0, (end - grads->written) * width * sizeof(float));
  grads->written = end;
}

const PoolingKernels* PoolingKernelsFor(ps::Isa isa) {
  if (!ps::IsaSupported(isa)) return nullptr;
#if defined(__x86_64__)
  if (isa == ps::Isa::kAvx2) return &kAvx2;
  if (isa == ps::Isa::kAvx512) return &kAvx512;
#endif
  return &kBaseline;
}

const PoolingKernels& BestPoolingKernels() { return *PoolingKernelsFor(ps::BestIsa()); }

}  // namespace gatemill::train
