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

// ---- rows of several shards -------------------------------------------------------------------------------------------

// kDim: the dimension where it is a common one, so that a copy is a few instructions; 0 = dim.
template <std::size_t kDim>
GM_LOOP void DealLoop(const float* rows, std::size_t dim, std::span<const std::uint16_t> shards, std::byte** streams) {
  const std::size_t bytes = (kDim == 0 ? dim : kDim) * sizeof(float);
  const auto* from = reinterpret_cast<const std::byte*>(rows);
  for (const std::uint16_t shard : shards) {
    std::memcpy(streams[shard], from, bytes);
    streams[shard] += bytes;
    from += bytes;
  }
}

template <std::size_t kDim>
GM_LOOP void CollectLoop(const std::byte** streams, std::size_t dim, std::span<const std::uint16_t> shards, float* rows) {
  const std::size_t bytes = (kDim == 0 ? dim : kDim) * sizeof(float);
  auto* to = reinterpret_cast<std::byte*>(rows);
  for (const std::uint16_t shard : shards) {
    std::memcpy(to, streams[shard], bytes);
    streams[shard] += bytes;
    to += bytes;
  }
}

GM_LOOP void DealFloatsLoop(const float* rows, std::size_t dim, std::span<const std::uint16_t> shards, std::byte** streams) {
  switch (dim) {
    case 8: return DealLoop<8>(rows, dim, shards, streams);
    case 16: return DealLoop<16>(rows, dim, shards, streams);
    case 32: return DealLoop<32>(rows, dim, shards, streams);
    case 64: return DealLoop<64>(rows, dim, shards, streams);
    default: return DealLoop<0>(rows, dim, shards, streams);
  }
}

GM_LOOP void CollectFloatsLoop(const std::byte** streams, std::size_t dim, std::span<const std::uint16_t> shards,
                               float* rows) {
  switch (dim) {
    case 8: return CollectLoop<8>(streams, dim, shards, rows);
    case 16: return CollectLoop<16>(streams, dim, shards, rows);
    case 32: return CollectLoop<32>(streams, dim, shards, rows);
    case 64: return CollectLoop<64>(streams, dim, shards, rows);
    default: return CollectLoop<0>(streams, dim, shards, rows);
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
  attribute void DealRows##suffix(FloatType type, const float* rows, std::size_t dim,                                     \
                                  std::span<const std::uint16_t> shards, std::byte** streams) {                           \
    if (type == FloatType::kFloat32) return DealFloatsLoop(rows, dim, shards, streams);                                   \
    for (std::size_t i = 0; i < shards.size(); ++i) {                                                                     \
      Pack##suffix(type, {rows + i * dim, dim}, streams[shards[i]]);                                                      \
      streams[shards[i]] += dim * BytesOf(type);                                                                          \
    }                                                                                                                     \
  }                                                                                                                       \
  attribute void CollectRows##suffix(FloatType type, const std::byte** streams, std::size_t dim,                          \
                                     std::span<const std::uint16_t> shards, float* rows) {                                \
    if (type == FloatType::kFloat32) return CollectFloatsLoop(streams, dim, shards, rows);                                \
    for (std::size_t i = 0; i < shards.size(); ++i) {                                                                     \
      Unpack##suffix(type, streams[shards[i]], {rows + i * dim, dim});                                                    \
      streams[shards[i]] += dim * BytesOf(type);                                                                          \
    }                                                                                                                     \
  }                                                                                                                       \
  constexpr HalfKernels k##suffix = {                                                                                     \
      .pack = Pack##suffix,                                                                                               \
      .unpack = Unpack##suffix,                                                                                           \
      .pack_stochastic = PackStochastic##suffix,                                                                          \
      .deal_rows = DealRows##suffix,                                                                                      \
      .collect_rows = CollectRows##suffix,                                                                                  \
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
