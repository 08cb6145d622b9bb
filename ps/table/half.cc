#include "ps/table/half.h"

#include <bit>
#include <cstring>
#include <initializer_list>

#include "ps/table/half_loops.h"

#if defined(__x86_64__)
#define GM_X86 1
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace gatemill::ps {
namespace {

using half_loops::kExponentShift;
using half_loops::kHalfNormal;
using half_loops::kHalfOverflow;
using half_loops::kInfinity;
using half_loops::PackStochasticLoop;
using half_loops::Select;
using half_loops::UnpackBfloatLoop;
using half_loops::UnpackHalfLoop;

GM_LOOP std::int32_t Magnitude(float value) { return std::bit_cast<std::int32_t>(value) & 0x7fffffff; }
GM_LOOP std::int32_t HalfSign(float value) { return (std::bit_cast<std::int32_t>(value) >> 16) & 0x8000; }

GM_LOOP void Store(std::byte* out, std::size_t i, std::int32_t half) {
  const auto bits = static_cast<std::uint16_t>(half);
  std::memcpy(out + i * sizeof(bits), &bits, sizeof(bits));
}

// `finite` where the value is, else infinity or the quiet NaN.
GM_LOOP std::int32_t HalfOf(float value, std::int32_t finite) {
  const std::int32_t magnitude = Magnitude(value);
  const std::int32_t nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
  const std::int32_t special = Select(magnitude > kInfinity, nan, 0x7c00);
  return HalfSign(value) | Select(magnitude >= kHalfOverflow, special, finite);
}

GM_LOOP std::int32_t BfloatOf(float value, std::int32_t added) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + static_cast<std::uint32_t>(added)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40;
  return static_cast<std::int32_t>(Magnitude(value) > kInfinity ? nan : rounded);
}

GM_LOOP void PackHalfLoop(const float* __restrict in, std::size_t count, std::byte* __restrict out) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t magnitude = Magnitude(in[i]);
    const std::int32_t normal = (magnitude - kExponentShift + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // The last bit of 0.5 is worth 2^-24, the spacing of subnormals: this add rounds to it, ties to even.
    const std::int32_t subnormal = std::bit_cast<std::int32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000;
    Store(out, i, HalfOf(in[i], Select(magnitude < kHalfNormal, subnormal, normal)));
  }
}

GM_LOOP void PackBfloatLoop(const float* __restrict in, std::size_t count, std::byte* __restrict out) {
  for (std::size_t i = 0; i < count; ++i) {
    Store(out, i, BfloatOf(in[i], 0x7fff + ((Magnitude(in[i]) >> 16) & 1)));
  }
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

// ---- rows at places ---------------------------------------------------------------------------------------------------

// kDim: the dimension where it is a common one, so that a copy is a few instructions; 0 = rows.dim.
template <std::size_t kDim>
GM_LOOP void PackPlacedLoop(const float* in, const PlacedRows& rows, std::byte* out) {
  const std::size_t dim = kDim == 0 ? rows.dim : kDim;
  for (std::size_t j = 0; j < rows.count; ++j) {
    std::memcpy(out + j * dim * sizeof(float), in + rows.places[j] * dim, dim * sizeof(float));
  }
}

template <std::size_t kDim>
GM_LOOP void UnpackPlacedLoop(const std::byte* in, const PlacedRows& rows, float* out) {
  const std::size_t dim = kDim == 0 ? rows.dim : kDim;
  for (std::size_t j = 0; j < rows.count; ++j) {
    std::memcpy(out + rows.places[j] * dim, in + j * dim * sizeof(float), dim * sizeof(float));
  }
}

GM_LOOP void PackFloatRowsLoop(const float* in, const PlacedRows& rows, std::byte* out) {
  switch (rows.dim) {
    case 8: return PackPlacedLoop<8>(in, rows, out);
    case 16: return PackPlacedLoop<16>(in, rows, out);
    case 32: return PackPlacedLoop<32>(in, rows, out);
    case 64: return PackPlacedLoop<64>(in, rows, out);
    default: return PackPlacedLoop<0>(in, rows, out);
  }
}

GM_LOOP void UnpackFloatRowsLoop(const std::byte* in, const PlacedRows& rows, float* out) {
  switch (rows.dim) {
    case 8: return UnpackPlacedLoop<8>(in, rows, out);
    case 16: return UnpackPlacedLoop<16>(in, rows, out);
    case 32: return UnpackPlacedLoop<32>(in, rows, out);
    case 64: return UnpackPlacedLoop<64>(in, rows, out);
    default: return UnpackPlacedLoop<0>(in, rows, out);
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): an attribute and a name cannot stand in parentheses.
// One set of wrappers. `attribute` selects the instruction set, `suffix` names the set.
#define GM_HALF_SET(suffix, attribute, lanes)                                                                             \
  attribute void Pack##suffix(FloatType type, std::span<const float> in, std::byte* out) {                                \
    if (in.empty()) return;                                                                                               \
    if (type == FloatType::kFloat32) std::memcpy(out, in.data(), in.size_bytes());                                        \
    if (type == FloatType::kFloat16) PackHalf##suffix(in.data(), in.size(), out);                                         \
    if (type == FloatType::kBfloat16) PackBfloatLoop(in.data(), in.size(), out);                                          \
  }                                                                                                                       \
  attribute void Unpack##suffix(FloatType type, const std::byte* in, std::span<float> out) {                              \
    if (out.empty()) return;                                                                                              \
    if (type == FloatType::kFloat32) std::memcpy(out.data(), in, out.size_bytes());                                       \
    if (type == FloatType::kFloat16) UnpackHalf##suffix(in, out.size(), out.data());                                      \
    if (type == FloatType::kBfloat16) UnpackBfloatLoop(in, out.size(), out.data());                                       \
  }                                                                                                                       \
  attribute void PackStochastic##suffix(FloatType type, std::span<const float> in, std::uint64_t stream,                  \
                                        std::byte* out) {                                                                 \
    if (in.empty()) return;                                                                                               \
    if (type == FloatType::kFloat32) std::memcpy(out, in.data(), in.size_bytes());                                        \
    if (type == FloatType::kFloat16) PackStochasticLoop<FloatType::kFloat16, lanes>(in.data(), in.size(), stream, out);   \
    if (type == FloatType::kBfloat16) PackStochasticLoop<FloatType::kBfloat16, lanes>(in.data(), in.size(), stream, out); \
  }                                                                                                                       \
  attribute void PackRows##suffix(FloatType type, const float* in, const PlacedRows& rows, std::byte* out) {              \
    if (rows.places == nullptr) return Pack##suffix(type, {in, rows.count * rows.dim}, out);                              \
    if (type == FloatType::kFloat32) return PackFloatRowsLoop(in, rows, out);                                             \
    for (std::size_t j = 0; j < rows.count; ++j) {                                                                        \
      Pack##suffix(type, {in + rows.places[j] * rows.dim, rows.dim}, out + j * rows.dim * BytesOf(type));                 \
    }                                                                                                                     \
  }                                                                                                                       \
  attribute void UnpackRows##suffix(FloatType type, const std::byte* in, const PlacedRows& rows, float* out) {            \
    if (rows.places == nullptr) return Unpack##suffix(type, in, {out, rows.count * rows.dim});                            \
    if (type == FloatType::kFloat32) return UnpackFloatRowsLoop(in, rows, out);                                           \
    for (std::size_t j = 0; j < rows.count; ++j) {                                                                        \
      Unpack##suffix(type, in + j * rows.dim * BytesOf(type), {out + rows.places[j] * rows.dim, rows.dim});               \
    }                                                                                                                     \
  }                                                                                                                       \
  constexpr HalfKernels k##suffix = {                                                                                     \
      .pack = Pack##suffix,                                                                                               \
      .unpack = Unpack##suffix,                                                                                           \
      .pack_stochastic = PackStochastic##suffix,                                                                          \
      .pack_rows = PackRows##suffix,                                                                                      \
      .unpack_rows = UnpackRows##suffix,                                                                                  \
  };

// NOLINTEND(bugprone-macro-parentheses)

GM_HALF_SET(Baseline, , 4)
#ifdef GM_X86
GM_HALF_SET(Avx2, [[gnu::target("avx2,f16c")]], 8)
GM_HALF_SET(Avx512, GM_AVX512, 16)
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
