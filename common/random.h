// Random draws as pure functions of what they are for, so that a draw does not depend on who makes it or when:
// (seed, table, key) for a new row, (seed, step, sample, layer, unit) for dropout, (seed, epoch) for shuffling.
//
// Thread safety: pure functions and values.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/keys.h"

namespace gatemill {

// One 64-bit draw of the stream named by (seed, a, b): two rounds of Mix64 over a Weyl sequence. The first round alone, for
// many draws that differ in b, and the second.
constexpr std::uint64_t RandomBase(std::uint64_t seed, std::uint64_t a) {
  return Mix64(seed + 0x9e3779b97f4a7c15ULL * (a + 1));
}
constexpr std::uint64_t RandomBitsOf(std::uint64_t base, std::uint64_t b) {
  return Mix64(base + 0xd1b54a32d192ed03ULL * (b + 1));
}
constexpr std::uint64_t RandomBits(std::uint64_t seed, std::uint64_t a, std::uint64_t b = 0) {
  return RandomBitsOf(RandomBase(seed, a), b);
}

// Uniform in [0, 1): the top 24 bits, exact in float.
constexpr float ToUniformFloat(std::uint64_t bits) { return static_cast<float>(bits >> 40) * 0x1.0p-24F; }
// Uniform in [0, 1): the top 53 bits, exact in double.
constexpr double ToUniformDouble(std::uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1.0p-53; }

// A sequential generator over RandomBits, for code that wants a stream. Satisfies UniformRandomBitGenerator.
class RandomStream {
 public:
  using result_type = std::uint64_t;
  RandomStream(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~0ULL; }
  result_type operator()() { return RandomBits(seed_, stream_, counter_++); }
  double Uniform() { return ToUniformDouble((*this)()); }
  // Standard normal by Box and Muller (1958).
  double Normal() {
    const double u = 1.0 - Uniform();
    const double v = Uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
  }
  // Uniform in [0, n), n > 0: Lemire's multiply-shift (2019), without the rejection (bias below n / 2^64).
  std::uint64_t Below(std::uint64_t n) {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>((*this)()) * n) >> 64);
  }

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t counter_ = 0;
};

}  // namespace gatemill
