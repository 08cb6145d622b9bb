// The first value of a row, as a pure function of (seed, table name, key).
//
// Element i of a row comes from the 64 random bits that (seed, table, key, i) name (uniform: a half of those of i / 2).
// The normal distribution is Box and Muller's (1958) over logarithm and cosine series of our own: the C library's
// differ in the last bit between instruction sets. A row of 16-bit floats starts with the nearest ones.
// Thread safety: const members touch only `row`.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "common/config.h"
#include "common/status.h"
#include "ps/table/half.h"
#include "ps/table/isa.h"

namespace gatemill::ps {

class RowInitializer {
 public:
  // kInvalidInput for an unknown type or a scale that is negative or not finite.
  static Status Check(const InitializerConfig& config);
  // `config` has passed Check. `isa`: one that this CPU has; the values are the same with each.
  RowInitializer(const InitializerConfig& config, std::string_view table_name, std::uint64_t seed,
                 FloatType dtype = FloatType::kFloat32, Isa isa = BestIsa());
  void Fill(std::uint64_t key, std::span<float> row) const;

 private:
  enum class Type { kZeros, kUniform, kNormal };
  void Draw(std::uint64_t key, std::span<float> row) const;
  Type type_;
  float scale_;
  std::uint64_t stream_;  // of (seed, table name)
  FloatType dtype_;
  void (*uniform_)(std::uint64_t base, float scale, float* row, std::size_t count);
  const HalfKernels& half_ = BestHalfKernels();
};

}  // namespace gatemill::ps
