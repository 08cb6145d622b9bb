// Rows as 16-bit floats, for a table that keeps or sends half the bytes: IEEE binary16 or bfloat16, compiled once per
// instruction set and chosen at run time.
//
//   const HalfKernels& half = BestHalfKernels();  // once; a call through it costs no look-up
//   half.pack(FloatType::kFloat16, row, bytes);
//   half.unpack(FloatType::kFloat16, bytes, row);
//
// Packed: BytesOf(type) bytes per float, in the machine's byte order, at any alignment. The floats are aligned to 4
// bytes; the two sides do not overlap. `out` of a pack has room for in.size() * BytesOf(type) bytes, `in` of an unpack
// holds out.size() * BytesOf(type).
// Every variant gives the same bits. A NaN stays a NaN: it becomes quiet and loses the low bits of its payload, as the
// hardware's conversions do. (Unpacking bfloat16 and both ways of kFloat32 move bits and quieten nothing.)
//
// Range: binary16 has 11 significant bits, 2^-14 to 65,504, and below 2^-14 a fixed spacing of 2^-24; bfloat16 has 8
// significant bits and the range of float. A magnitude that rounds beyond the largest finite number becomes infinity.
// Errors: none; `type` is one of the named values. Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "ps/table/isa.h"

namespace gatemill::ps {

// How a row's floats are kept or sent.
enum class FloatType : std::uint8_t { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2 };

constexpr std::size_t BytesOf(FloatType type) { return type == FloatType::kFloat32 ? 4 : 2; }

constexpr std::string_view NameOf(FloatType type) {
  return type == FloatType::kFloat16 ? "fp16" : (type == FloatType::kBfloat16 ? "bf16" : "fp32");
}
// "fp16", "bf16"; every other name is kFloat32.
inline FloatType FloatTypeOf(std::string_view name) {
  return name == "fp16" ? FloatType::kFloat16 : (name == "bf16" ? FloatType::kBfloat16 : FloatType::kFloat32);
}

struct HalfKernels {
  // out[i] = in[i] in `type`, rounded to nearest, ties to even. kFloat32 copies.
  void (*pack)(FloatType type, std::span<const float> in, std::byte* out);
  // out[i] = in[i], exactly.
  void (*unpack)(FloatType type, const std::byte* in, std::span<float> out);
  // out[i] = one of the two neighbours of in[i] in `type`, the one of larger magnitude with the probability of in[i]'s
  // distance to the other in units of their distance, so that the expectation of out[i] is in[i]; kFloat32 copies. A
  // value that `type` has is unchanged. The draw is a pure function of (stream, i), so it does not depend on in.size().
  // `stream`: one draw of RandomBits (common/random.h) for each call, named by what the call is for.
  // The probability is exact, except for magnitudes below 2^-14 in binary16, where it is rounded down to a multiple of
  // 2^-24. Past the largest finite number the upper neighbour is infinity, at the place of the next power of two.
  void (*pack_stochastic)(FloatType type, std::span<const float> in, std::uint64_t stream, std::byte* out);
  // pack and unpack of rows that go to several shards and come from them, in one pass: row i of rows [count, dim] is the next
  // one of streams[shards[i]], which moves on behind it.
  void (*deal_rows)(FloatType type, const float* rows, std::size_t dim, std::span<const std::uint16_t> shards,
                    std::byte** streams);
  void (*collect_rows)(FloatType type, const std::byte** streams, std::size_t dim, std::span<const std::uint16_t> shards,
                       float* rows);
};

// Null when this CPU lacks the instructions. kAvx2 also needs F16C.
const HalfKernels* HalfKernelsFor(Isa isa);
// The widest that this CPU has.
const HalfKernels& BestHalfKernels();

// The same by BestHalfKernels(), which each call looks up: for single long arrays.
void PackFloats(FloatType type, std::span<const float> in, std::byte* out);
void UnpackFloats(FloatType type, const std::byte* in, std::span<float> out);
void PackFloatsStochastic(FloatType type, std::span<const float> in, std::uint64_t stream, std::byte* out);

}  // namespace gatemill::ps
