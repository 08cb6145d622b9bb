#include "ps/table/initializer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "common/keys.h"
#include "common/random.h"

namespace gatemill::ps {
namespace {

// ln(x) for normal x > 0: x = m * 2^e with m in [sqrt(1/2), sqrt(2)), ln(m) = 2 artanh((m - 1) / (m + 1)) as a series.
double Log(double x) {
  const auto bits = std::bit_cast<std::uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & ((1ULL << 52) - 1)) | (1023ULL << 52));
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1.0) / (m + 1.0);
  double series = 0.0;
  for (int n = 21; n >= 1; n -= 2) series = series * (s * s) + 1.0 / n;
  return 2.0 * s * series + exponent * 0.6931471805599453;
}

// cos(2 pi turn) for turn in [0, 1): folded to a quarter turn, then the Taylor series.
double CosOfTurn(double turn) {
  double x = turn < 0.5 ? turn : 1.0 - turn;
  const bool negative = x > 0.25;
  if (negative) x = 0.5 - x;
  const double angle = 6.283185307179586 * x;
  double series = 1.0;
  for (int n = 22; n >= 2; n -= 2) series = 1.0 - series * (angle * angle) / (n * (n - 1));
  return negative ? -series : series;
}

float HalfToUniform(std::uint64_t bits, std::size_t element) {
  return ToUniformFloat((element & 1) != 0 ? bits << 32 : bits);
}

// Two elements of each draw: of its high half, then of its low one.
GM_LOOP void UniformLoop(std::uint64_t base, float scale, float* __restrict row, std::size_t count) {
  static_assert(std::endian::native == std::endian::little, "halves of a draw are told apart by where they lie");
  constexpr std::size_t kDraws = 8;
  std::size_t i = 0;
  for (; i + 2 * kDraws <= count; i += 2 * kDraws) {
    std::uint64_t draws[kDraws];
    std::uint32_t halves[2 * kDraws];
    for (std::size_t d = 0; d < kDraws; ++d) draws[d] = std::rotl(RandomBitsOf(base, i / 2 + d), 32);
    std::memcpy(halves, draws, sizeof(draws));
    for (std::size_t h = 0; h < 2 * kDraws; ++h) {
      row[i + h] = scale * (2.0F * (static_cast<float>(static_cast<std::int32_t>(halves[h] >> 8)) * 0x1.0p-24F) - 1.0F);
    }
  }
  std::uint64_t bits = 0;
  for (; i < count; ++i) {
    if ((i & 1) == 0) bits = RandomBitsOf(base, i / 2);
    row[i] = scale * (2.0F * HalfToUniform(bits, i) - 1.0F);
  }
}

GM_ISA_VARIANTS(Uniform, (std::uint64_t base, float scale, float* row, std::size_t count), (base, scale, row, count))

constexpr IsaVariants<void (*)(std::uint64_t, float, float*, std::size_t)> kUniform = GM_ISA_TABLE(Uniform);

}  // namespace

Status RowInitializer::Check(const InitializerConfig& config) {
  if (config.type != "uniform" && config.type != "normal" && config.type != "zeros") {
    return InvalidInput("unknown initializer '" + config.type + "'; choose one of uniform, normal, zeros");
  }
  if (!std::isfinite(config.scale) || config.scale < 0.0) {
    return InvalidInput("initializer scale = " + std::to_string(config.scale) +
                        " is out of range; give a number from 0 up");
  }
  return Ok();
}

RowInitializer::RowInitializer(const InitializerConfig& config, std::string_view table_name, std::uint64_t seed,
                               FloatType dtype, Isa isa)
    : type_(config.type == "zeros" ? Type::kZeros : (config.type == "normal" ? Type::kNormal : Type::kUniform)),
      scale_(static_cast<float>(config.scale)),
      stream_(RandomBits(seed, TableSalt(table_name))),
      dtype_(dtype),
      uniform_(kUniform.For(isa)) {}

void RowInitializer::Fill(std::uint64_t key, std::span<float> row) const {
  Draw(key, row);
  if (dtype_ == FloatType::kFloat32) return;
  std::array<std::byte, 128> packed;
  while (!row.empty()) {
    const std::span<float> some = row.first(std::min(row.size(), packed.size() / BytesOf(dtype_)));
    half_.pack(dtype_, some, packed.data());
    half_.unpack(dtype_, packed.data(), some);
    row = row.subspan(some.size());
  }
}

void RowInitializer::Draw(std::uint64_t key, std::span<float> row) const {
  if (type_ == Type::kZeros) {
    std::fill(row.begin(), row.end(), 0.0F);
  } else if (type_ == Type::kUniform) {
    uniform_(RandomBase(stream_, key), scale_, row.data(), row.size());
  } else {
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::uint64_t bits = RandomBits(stream_, key, i);
      const double radius = std::sqrt(-2.0 * Log(1.0 - static_cast<double>(HalfToUniform(bits, 0))));
      row[i] = static_cast<float>(static_cast<double>(scale_) * radius *
                                  CosOfTurn(static_cast<double>(HalfToUniform(bits, 1))));
    }
  }
}

}  // namespace gatemill::ps
