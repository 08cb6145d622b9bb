// Loops between floats and 16-bit floats, to be inlined where a row is at hand. ps/table/half.h says what they compute; only
// half.cc and kernels.cc include this header.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ps/table/half.h"
#include "ps/table/isa.h"

namespace gatemill::ps::half_loops {

// Bits of floats without sign. All fit an int32: SSE2 compares signed integers only.
inline constexpr std::int32_t kInfinity = 0x7f800000;
inline constexpr std::int32_t kHalfOverflow = 0x47800000;   // 2^16: infinity in binary16
inline constexpr std::int32_t kHalfNormal = 0x38800000;     // 2^-14: the smallest normal binary16
inline constexpr std::int32_t kExponentShift = 0x38000000;  // (127 - 15) << 23: between the exponents of float and binary16

GM_LOOP std::int32_t Load(const std::byte* in, std::size_t i) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, in + i * sizeof(bits), sizeof(bits));
  return bits;
}

// `condition ? a : b` with masks: the compiler would move what only one side needs into a branch, and a loop with
// floating-point operations in a branch does not vectorize.
GM_LOOP std::int32_t Select(bool condition, std::int32_t a, std::int32_t b) {
  const std::int32_t mask = -static_cast<std::int32_t>(condition);
  return (a & mask) | (b & ~mask);
}

GM_LOOP void UnpackHalfLoop(const std::byte* __restrict in, std::size_t count, float* __restrict out) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t half = Load(in, i);
    const std::int32_t magnitude = half & 0x7fff;
    const std::int32_t normal = (magnitude << 13) + kExponentShift;
    const std::int32_t subnormal = std::bit_cast<std::int32_t>(static_cast<float>(magnitude) * 0x1.0p-24F);
    const std::int32_t special = (magnitude << 13) | kInfinity | Select(magnitude > 0x7c00, 0x400000, 0);
    const std::int32_t finite = Select(magnitude < 0x400, subnormal, normal);
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
    out[i] = std::bit_cast<float>(sign | static_cast<std::uint32_t>(Select(magnitude >= 0x7c00, special, finite)));
  }
}

GM_LOOP void UnpackBfloatLoop(const std::byte* __restrict in, std::size_t count, float* __restrict out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = std::bit_cast<float>(static_cast<std::uint32_t>(Load(in, i)) << 16);
}

// ---- in vectors -------------------------------------------------------------------------------------------------------
// Of as many lanes as the instruction set's registers have (kLanes: 4, 8 or 16), so that a row stays in registers: what goes
// through an array on its way waits for stores that are narrower than the load behind them.

template <int kLanes>
struct VectorsOf;  // written out: GCC 12 takes no vector's size from a template
template <>
struct VectorsOf<4> {
  using Words = std::uint32_t __attribute__((vector_size(16)));
  using Ints = std::int32_t __attribute__((vector_size(16)));
  using Floats = float __attribute__((vector_size(16)));
  using Halves = std::uint16_t __attribute__((vector_size(8)));
};
template <>
struct VectorsOf<8> {
  using Words = std::uint32_t __attribute__((vector_size(32)));
  using Ints = std::int32_t __attribute__((vector_size(32)));
  using Floats = float __attribute__((vector_size(32)));
  using Halves = std::uint16_t __attribute__((vector_size(16)));
};
template <>
struct VectorsOf<16> {
  using Words = std::uint32_t __attribute__((vector_size(64)));
  using Ints = std::int32_t __attribute__((vector_size(64)));
  using Floats = float __attribute__((vector_size(64)));
  using Halves = std::uint16_t __attribute__((vector_size(32)));
};
template <int kLanes>
using Words = typename VectorsOf<kLanes>::Words;
template <int kLanes>
using Floats = typename VectorsOf<kLanes>::Floats;
using Draws = std::uint64_t __attribute__((vector_size(16)));

template <int kLanes>
GM_LOOP void UnpackHalfLanes(const typename VectorsOf<kLanes>::Ints& half, Floats<kLanes>* out) {
  using I = typename VectorsOf<kLanes>::Ints;
  const I magnitude = half & 0x7fff;
  const I is_normal = magnitude >= 0x400;  // 0 or -1
  const I is_special = magnitude >= 0x7c00;
  const I subnormal = reinterpret_cast<I>(__builtin_convertvector(magnitude, Floats<kLanes>) * 0x1.0p-24F);
  const I normal = (magnitude << 13) + kExponentShift;
  const I special = (magnitude << 13) | kInfinity | (0x400000 & (magnitude > 0x7c00));
  const I finite = (normal & is_normal) | (subnormal & ~is_normal);
  const I sign = (half & 0x8000) << 16;
  *out = reinterpret_cast<Floats<kLanes>>(sign | (special & is_special) | (finite & ~is_special));
}

template <FloatType kType, int kLanes>
GM_LOOP void UnpackLoop(const std::byte* in, std::size_t count, float* out) {
  using V = VectorsOf<kLanes>;
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    typename V::Halves packed;
    Floats<kLanes> floats;
    std::memcpy(&packed, in + 2 * i, sizeof(packed));
    const auto halves = __builtin_convertvector(packed, typename V::Ints);
    if constexpr (kType == FloatType::kFloat16) {
      UnpackHalfLanes<kLanes>(halves, &floats);
    } else {
      floats = reinterpret_cast<Floats<kLanes>>(halves << 16);
    }
    std::memcpy(out + i, &floats, sizeof(floats));
  }
  if constexpr (kLanes > 4) {
    UnpackLoop<kType, 4>(in + 2 * i, count - i, out + i);
  } else if constexpr (kType == FloatType::kFloat16) {
    UnpackHalfLoop(in + 2 * i, count - i, out + i);
  } else {
    UnpackBfloatLoop(in + 2 * i, count - i, out + i);
  }
}

inline constexpr std::size_t kBlock = 16;  // floats that one block of random words serves

// A word for each float of a block: one mix per four floats. The top 16 bits of a word are the float's own, the low 16
// are those of the float eight places away. Only subnormals of binary16 read some of the low ones.
struct BlockWords {
  Words<4> words[kBlock / 4];
};

GM_LOOP void Mix64Both(Draws* bits) {
  *bits ^= *bits >> 33;
  *bits *= 0xff51afd7ed558ccdULL;
  *bits ^= *bits >> 33;
  *bits *= 0xc4ceb9fe1a85ec53ULL;
  *bits ^= *bits >> 33;
}

GM_LOOP void DrawBlock(std::uint64_t stream, std::size_t block, BlockWords* out) {
  constexpr std::uint64_t kWeyl = 0x9e3779b97f4a7c15ULL;
  const std::uint64_t first = stream + kWeyl * (4 * block + 1);
  static_assert(std::endian::native == std::endian::little, "a draw's low word lies first");
  Draws a = {first, first + kWeyl};
  Draws b = {first + 2 * kWeyl, first + 3 * kWeyl};
  Mix64Both(&a);
  Mix64Both(&b);
  const auto low = reinterpret_cast<Words<4>>(a);
  const auto high = reinterpret_cast<Words<4>>(b);
  out->words[0] = __builtin_shufflevector(low, high, 0, 2, 4, 6);
  out->words[1] = __builtin_shufflevector(low, high, 1, 3, 5, 7);
  out->words[2] = out->words[0] << 16 | out->words[0] >> 16;
  out->words[3] = out->words[1] << 16 | out->words[1] >> 16;
}

// Those from float `begin` of the block on.
template <int kLanes>
GM_LOOP void WordsFrom(const BlockWords& block, std::size_t begin, Words<kLanes>* words) {
  const Words<4>* at = block.words + begin / 4;
  if constexpr (kLanes == 4) {
    *words = at[0];
  } else if constexpr (kLanes == 8) {
    *words = __builtin_shufflevector(at[0], at[1], 0, 1, 2, 3, 4, 5, 6, 7);
  } else {
    const Words<8> low = __builtin_shufflevector(at[0], at[1], 0, 1, 2, 3, 4, 5, 6, 7);
    const Words<8> high = __builtin_shufflevector(at[2], at[3], 0, 1, 2, 3, 4, 5, 6, 7);
    *words = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }
}

template <int kLanes>
GM_LOOP void HalfLanes(const Words<kLanes>& bits, const Words<kLanes>& words, Words<kLanes>* out) {
  using I = typename VectorsOf<kLanes>::Ints;
  using F = Floats<kLanes>;
  const I magnitude = reinterpret_cast<I>(bits & 0x7fffffff);
  const I is_normal = magnitude >= kHalfNormal;  // 0 or -1
  // Unsigned: with lanes that are no normal number it may wrap around.
  const Words<kLanes> shifted = (bits & 0x7fffffff) - static_cast<std::uint32_t>(kExponentShift) + (words >> 19);
  const I normal = reinterpret_cast<I>(shifted >> 13);
  // In units of 2^-24, below 1024. Each step is exact but the last, which drops what is below 2^-24 of a unit.
  const F scaled = reinterpret_cast<F>(magnitude & ~is_normal) * 0x1.0p24F;
  const I whole = __builtin_convertvector(scaled, I);
  const I threshold = __builtin_convertvector((scaled - __builtin_convertvector(whole, F)) * 0x1.0p24F, I);
  const I up = reinterpret_cast<I>(words >> 8) < threshold;
  const I finite = (normal & is_normal) | ((whole - up) & ~is_normal);
  const I special = (((magnitude >> 13 & 0x3ff) | 0x200) & (magnitude > kInfinity)) | 0x7c00;
  const I overflows = magnitude >= kHalfOverflow;
  *out = (bits >> 16 & 0x8000) | reinterpret_cast<Words<kLanes>>((special & overflows) | (finite & ~overflows));
}

template <int kLanes>
GM_LOOP void BfloatLanes(const Words<kLanes>& bits, const Words<kLanes>& words, Words<kLanes>* out) {
  using I = typename VectorsOf<kLanes>::Ints;
  const auto is_nan = reinterpret_cast<Words<kLanes>>(reinterpret_cast<I>(bits & 0x7fffffff) > kInfinity);
  *out = ((bits >> 16 | 0x40) & is_nan) | ((bits + (words >> 16)) >> 16 & ~is_nan);
}

// Rounds kLanes floats of a block, from float `at` on; `in` and `out` are theirs.
template <FloatType kType, int kLanes>
GM_LOOP void PackLanes(const float* in, const BlockWords& block, std::size_t at, std::byte* out) {
  Words<kLanes> bits;
  Words<kLanes> words;
  Words<kLanes> halves;
  std::memcpy(&bits, in, sizeof(bits));
  WordsFrom<kLanes>(block, at, &words);
  if constexpr (kType == FloatType::kFloat16) {
    HalfLanes<kLanes>(bits, words, &halves);
  } else {
    BfloatLanes<kLanes>(bits, words, &halves);
  }
  const auto packed = __builtin_convertvector(halves, typename VectorsOf<kLanes>::Halves);
  std::memcpy(out, &packed, sizeof(packed));
}

template <FloatType kType, int kLanes>
GM_LOOP void PackStochasticLoop(const float* in, std::size_t count, std::uint64_t stream, std::byte* out) {
  BlockWords words;
  std::size_t begin = 0;
  for (; begin + kBlock <= count; begin += kBlock) {
    DrawBlock(stream, begin / kBlock, &words);
    for (std::size_t i = 0; i < kBlock; i += kLanes) {
      PackLanes<kType, kLanes>(in + begin + i, words, i, out + 2 * (begin + i));
    }
  }
  if (begin == count) return;
  DrawBlock(stream, begin / kBlock, &words);
  constexpr std::size_t kFew = 4;
  std::size_t i = 0;
  for (; begin + i + kFew <= count; i += kFew) PackLanes<kType, kFew>(in + begin + i, words, i, out + 2 * (begin + i));
  if (begin + i == count) return;
  float rest[kFew] = {};
  std::byte packed[2 * kFew];
  const std::size_t left = count - begin - i;
  std::memcpy(rest, in + begin + i, left * sizeof(float));
  PackLanes<kType, kFew>(rest, words, i, packed);
  std::memcpy(out + 2 * (begin + i), packed, 2 * left);
}

}  // namespace gatemill::ps::half_loops
