#include "ps/table/half.h"

#include <bit>
#include <cstring>
#include <initializer_list>

#include "common/keys.h"

#if defined(__x86_64__)
#define GM_X86 1
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace gatemill::ps {
namespace {

// Inlined into one wrapper per instruction set, so that the compiler vectorizes the same loop for each.
#define GM_KERNEL [[gnu::always_inline]] inline

// Bits of floats without sign. All fit an int32: SSE2 compares signed integers only.
constexpr std::int32_t kInfinity = 0x7f800000;
constexpr std::int32_t kHalfOverflow = 0x47800000;   // 2^16: infinity in binary16
constexpr std::int32_t kHalfNormal = 0x38800000;     // 2^-14: the smallest normal binary16
constexpr std::int32_t kExponentShift = 0x38000000;  // (127 - 15) << 23: between the exponents of float and binary16

constexpr std::size_t kBlock = 16;  // floats that one block of random words serves

GM_KERNEL std::int32_t Magnitude(float value) { return std::bit_cast<std::int32_t>(value) & 0x7fffffff; }
GM_KERNEL std::int32_t HalfSign(float value) { return (std::bit_cast<std::int32_t>(value) >> 16) & 0x8000; }

GM_KERNEL void Store(std::byte* out, std::size_t i, std::int32_t half) {
  const auto bits = static_cast<std::uint16_t>(half);
  std::memcpy(out + i * sizeof(bits), &bits, sizeof(bits));
}
GM_KERNEL std::int32_t Load(const std::byte* in, std::size_t i) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, in + i * sizeof(bits), sizeof(bits));
  return bits;
}

// `condition ? a : b` with masks: the compiler would move what only one side needs into a branch, and a loop with
// floating-point operations in a branch does not vectorize.
GM_KERNEL std::int32_t Select(bool condition, std::int32_t a, std::int32_t b) {
  const std::int32_t mask = -static_cast<std::int32_t>(condition);
  return (a & mask) | (b & ~mask);
}

// `finite` where the value is, else infinity or the quiet NaN.
GM_KERNEL std::int32_t HalfOf(float value, std::int32_t finite) {
  const std::int32_t magnitude = Magnitude(value);
  const std::int32_t nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
  const std::int32_t special = Select(magnitude > kInfinity, nan, 0x7c00);
  return HalfSign(value) | Select(magnitude >= kHalfOverflow, special, finite);
}

GM_KERNEL std::int32_t BfloatOf(float value, std::int32_t added) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + static_cast<std::uint32_t>(added)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40;
  return static_cast<std::int32_t>(Magnitude(value) > kInfinity ? nan : rounded);
}

GM_KERNEL void PackHalfLoop(const float* __restrict in, std::size_t count, std::byte* __restrict out) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t magnitude = Magnitude(in[i]);
    const std::int32_t normal = (magnitude - kExponentShift + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // The last bit of 0.5 is worth 2^-24, the spacing of subnormals: this add rounds to it, ties to even.
    const std::int32_t subnormal = std::bit_cast<std::int32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000;
    Store(out, i, HalfOf(in[i], Select(magnitude < kHalfNormal, subnormal, normal)));
  }
}

GM_KERNEL void UnpackHalfLoop(const std::byte* __restrict in, std::size_t count, float* __restrict out) {
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

GM_KERNEL void PackBfloatLoop(const float* __restrict in, std::size_t count, std::byte* __restrict out) {
  for (std::size_t i = 0; i < count; ++i) {
    Store(out, i, BfloatOf(in[i], 0x7fff + ((Magnitude(in[i]) >> 16) & 1)));
  }
}

GM_KERNEL void UnpackBfloatLoop(const std::byte* __restrict in, std::size_t count, float* __restrict out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = std::bit_cast<float>(static_cast<std::uint32_t>(Load(in, i)) << 16);
}

// A word for each float of a block: one mix per four floats. The top 16 bits of a word are the float's own, the low 16
// are those of the float eight places away. Only subnormals of binary16 read some of the low ones.
GM_KERNEL void DrawBlock(std::uint64_t stream, std::size_t block, std::uint32_t* __restrict words) {
  for (std::size_t i = 0; i < 4; ++i) {
    const std::uint64_t bits = Mix64(stream + 0x9e3779b97f4a7c15ULL * (4 * block + i + 1));
    words[i] = static_cast<std::uint32_t>(bits);
    words[i + 4] = static_cast<std::uint32_t>(bits >> 32);
  }
  for (std::size_t i = 0; i < 8; ++i) words[i + 8] = words[i] << 16 | words[i] >> 16;
}

GM_KERNEL void HalfBlock(const float* __restrict in, const std::uint32_t* __restrict words, std::byte* __restrict out) {
  for (std::size_t i = 0; i < kBlock; ++i) {
    const std::int32_t magnitude = Magnitude(in[i]);
    const std::int32_t normal = (magnitude - kExponentShift + static_cast<std::int32_t>(words[i] >> 19)) >> 13;
    // In units of 2^-24, below 1024. Each step is exact but the last, which drops what is below 2^-24 of a unit.
    const auto scaled = std::bit_cast<float>(Select(magnitude < kHalfNormal, magnitude, 0)) * 0x1.0p24F;
    const auto whole = static_cast<std::int32_t>(scaled);
    const auto threshold = static_cast<std::int32_t>((scaled - static_cast<float>(whole)) * 0x1.0p24F);
    const std::int32_t subnormal =
        whole + static_cast<std::int32_t>(static_cast<std::int32_t>(words[i] >> 8) < threshold);
    Store(out, i, HalfOf(in[i], Select(magnitude < kHalfNormal, subnormal, normal)));
  }
}

GM_KERNEL void BfloatBlock(const float* __restrict in, const std::uint32_t* __restrict words,
                           std::byte* __restrict out) {
  for (std::size_t i = 0; i < kBlock; ++i) Store(out, i, BfloatOf(in[i], static_cast<std::int32_t>(words[i] >> 16)));
}

template <bool kHalf>
GM_KERNEL void StochasticLoop(const float* __restrict in, std::size_t count, std::uint64_t stream,
                              std::byte* __restrict out) {
  std::uint32_t words[kBlock];
  std::size_t begin = 0;
  for (; begin + kBlock <= count; begin += kBlock) {
    DrawBlock(stream, begin / kBlock, words);
    if (kHalf) {
      HalfBlock(in + begin, words, out + 2 * begin);
    } else {
      BfloatBlock(in + begin, words, out + 2 * begin);
    }
  }
  if (begin == count) return;
  float rest[kBlock] = {};
  std::byte packed[2 * kBlock];
  std::memcpy(rest, in + begin, (count - begin) * sizeof(float));
  DrawBlock(stream, begin / kBlock, words);
  if (kHalf) {
    HalfBlock(rest, words, packed);
  } else {
    BfloatBlock(rest, words, packed);
  }
  std::memcpy(out + 2 * begin, packed, 2 * (count - begin));
}

void PackHalfBaseline(const float* in, std::size_t count, std::byte* out) { PackHalfLoop(in, count, out); }
void UnpackHalfBaseline(const std::byte* in, std::size_t count, float* out) { UnpackHalfLoop(in, count, out); }

#ifdef GM_X86
[[gnu::target("avx2,f16c")]] void PackHalfAvx2(const float* in, std::size_t count, std::byte* out) {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i), half);
  }
  if (i < count) PackHalfLoop(in + i, count - i, out + 2 * i);
}
[[gnu::target("avx2,f16c")]] void UnpackHalfAvx2(const std::byte* in, std::size_t count, float* out) {
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 2 * i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(half));
  }
  if (i < count) UnpackHalfLoop(in + 2 * i, count - i, out + i);
}

// The forms with a mask, all set: GCC 12 warns of an uninitialized operand inside those without.
constexpr __mmask16 kAllLanes = 0xffff;
#define GM_AVX512 [[gnu::target("avx512f,avx512vl,avx512dq,avx512bw")]]
GM_AVX512 void PackHalfAvx512(const float* in, std::size_t count, std::byte* out) {
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256i half = _mm512_maskz_cvtps_ph(kAllLanes, _mm512_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 2 * i), half);
  }
  if (i == count) return;
  const auto mask = static_cast<__mmask16>((1U << (count - i)) - 1);
  const __m256i half = _mm512_maskz_cvtps_ph(mask, _mm512_maskz_loadu_ps(mask, in + i), _MM_FROUND_TO_NEAREST_INT);
  _mm256_mask_storeu_epi16(out + 2 * i, mask, half);
}
GM_AVX512 void UnpackHalfAvx512(const std::byte* in, std::size_t count, float* out) {
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + 2 * i));
    _mm512_storeu_ps(out + i, _mm512_maskz_cvtph_ps(kAllLanes, half));
  }
  if (i == count) return;
  const auto mask = static_cast<__mmask16>((1U << (count - i)) - 1);
  _mm512_mask_storeu_ps(out + i, mask, _mm512_maskz_cvtph_ps(mask, _mm256_maskz_loadu_epi16(mask, in + 2 * i)));
}

bool HasF16c() {
#ifdef __clang__  // clang 14 does not know the name "f16c"
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
#else
  return __builtin_cpu_supports("f16c");
#endif
}
#endif

// NOLINTBEGIN(bugprone-macro-parentheses): an attribute and a name cannot stand in parentheses.
// One set of wrappers. `attribute` selects the instruction set, `suffix` names the set.
#define GM_HALF_SET(suffix, attribute)                                                                   \
  attribute void Pack##suffix(FloatType type, std::span<const float> in, std::byte* out) {               \
    if (in.empty()) return;                                                                              \
    if (type == FloatType::kFloat32) std::memcpy(out, in.data(), in.size_bytes());                       \
    if (type == FloatType::kFloat16) PackHalf##suffix(in.data(), in.size(), out);                        \
    if (type == FloatType::kBfloat16) PackBfloatLoop(in.data(), in.size(), out);                         \
  }                                                                                                      \
  attribute void Unpack##suffix(FloatType type, const std::byte* in, std::span<float> out) {             \
    if (out.empty()) return;                                                                             \
    if (type == FloatType::kFloat32) std::memcpy(out.data(), in, out.size_bytes());                      \
    if (type == FloatType::kFloat16) UnpackHalf##suffix(in, out.size(), out.data());                     \
    if (type == FloatType::kBfloat16) UnpackBfloatLoop(in, out.size(), out.data());                      \
  }                                                                                                      \
  attribute void PackStochastic##suffix(FloatType type, std::span<const float> in, std::uint64_t stream, \
                                        std::byte* out) {                                                \
    if (in.empty()) return;                                                                              \
    if (type == FloatType::kFloat32) std::memcpy(out, in.data(), in.size_bytes());                       \
    if (type == FloatType::kFloat16) StochasticLoop<true>(in.data(), in.size(), stream, out);            \
    if (type == FloatType::kBfloat16) StochasticLoop<false>(in.data(), in.size(), stream, out);          \
  }                                                                                                      \
  constexpr HalfKernels k##suffix = {                                                                    \
      .pack = Pack##suffix,                                                                              \
      .unpack = Unpack##suffix,                                                                          \
      .pack_stochastic = PackStochastic##suffix,                                                         \
  };

// NOLINTEND(bugprone-macro-parentheses)

GM_HALF_SET(Baseline, )
#ifdef GM_X86
GM_HALF_SET(Avx2, [[gnu::target("avx2,f16c")]])
GM_HALF_SET(Avx512, GM_AVX512)
#endif

}  // namespace

const HalfKernels* HalfKernelsFor(Isa isa) {
  if (!IsaSupported(isa)) return nullptr;
#ifdef GM_X86
  if (isa == Isa::kAvx2) return HasF16c() ? &kAvx2 : nullptr;
  if (isa == Isa::kAvx512) return &kAvx512;
#endif
  return &kBaseline;
}

const HalfKernels& BestHalfKernels() {
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2}) {
    if (const HalfKernels* kernels = HalfKernelsFor(isa)) return *kernels;
  }
  return kBaseline;
}

void PackFloats(FloatType type, std::span<const float> in, std::byte* out) { BestHalfKernels().pack(type, in, out); }

void UnpackFloats(FloatType type, const std::byte* in, std::span<float> out) {
  BestHalfKernels().unpack(type, in, out);
}

void PackFloatsStochastic(FloatType type, std::span<const float> in, std::uint64_t stream, std::byte* out) {
  BestHalfKernels().pack_stochastic(type, in, stream, out);
}

}  // namespace gatemill::ps
