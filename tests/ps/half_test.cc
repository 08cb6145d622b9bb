#include "ps/table/half.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "common/random.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 20190612;
constexpr FloatType kTypes[] = {FloatType::kFloat16, FloatType::kBfloat16};
constexpr int kPatterns = 65536;

std::uint32_t BitsOf(float value) { return std::bit_cast<std::uint32_t>(value); }
float FloatOf(std::uint32_t bits) { return std::bit_cast<float>(bits); }
bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) { return BitsOf(x) == BitsOf(y); });
}
std::string Name(FloatType type) { return type == FloatType::kFloat16 ? "binary16" : "bfloat16"; }

// The 16-bit formats by their definition, in double arithmetic: nothing here is shared with the code under test.
class Format {
 public:
  explicit Format(FloatType type) : type_(type), mantissa_bits_(type == FloatType::kFloat16 ? 10 : 7) {
    for (int pattern = 0; pattern <= Infinity(); ++pattern) places_.push_back(PlaceOf(pattern));
  }

  FloatType type() const { return type_; }
  int Infinity() const { return 0x7fff >> mantissa_bits_ << mantissa_bits_; }
  // Where pattern 0 to Infinity() lies on the axis; infinity at the next power of two.
  double Place(int pattern) const { return places_[static_cast<std::size_t>(pattern)]; }

  // The patterns at or around a magnitude: equal when the format has it, or when it is infinity or beyond its place.
  std::pair<int, int> Around(double magnitude) const {
    if (magnitude >= Place(Infinity())) return {Infinity(), Infinity()};
    const auto above = std::upper_bound(places_.begin(), places_.end(), magnitude);
    const int low = static_cast<int>(above - places_.begin()) - 1;
    return {low, Place(low) == magnitude ? low : low + 1};
  }
  int Nearest(double magnitude) const {
    const auto [low, high] = Around(magnitude);
    const double down = magnitude - Place(low);
    const double up = Place(high) - magnitude;
    if (low == high || down < up) return low;
    if (up < down) return high;
    return low % 2 == 0 ? low : high;
  }
  static int Sign(float value) { return std::signbit(value) ? 0x8000 : 0; }
  // The quiet NaN with the sign and the top of the payload.
  int Nan(float value) const {
    const int payload = static_cast<int>((BitsOf(value) & 0x7fffff) >> (23 - mantissa_bits_));
    return Sign(value) | Infinity() | 1 << (mantissa_bits_ - 1) | payload;
  }
  // What unpacking a NaN gives: binary16's becomes quiet, as the hardware makes it.
  std::uint32_t NanBits(int pattern) const {
    const auto sign = static_cast<std::uint32_t>(pattern & 0x8000) << 16;
    const auto payload = static_cast<std::uint32_t>(pattern & (Infinity() ^ 0x7fff)) << (23 - mantissa_bits_);
    return sign | 0x7f800000U | payload | (type_ == FloatType::kFloat16 ? 0x400000U : 0);
  }
  int NearestOf(float value) const {
    return std::isnan(value) ? Nan(value) : Sign(value) | Nearest(std::fabs(static_cast<double>(value)));
  }

 private:
  double PlaceOf(int pattern) const {
    const int bias = type_ == FloatType::kFloat16 ? 15 : 127;
    const int exponent = pattern >> mantissa_bits_;
    const int one = 1 << mantissa_bits_;
    const int mantissa = pattern % one;
    if (exponent == 0) return std::ldexp(mantissa, 1 - bias - mantissa_bits_);
    return std::ldexp(one + mantissa, exponent - bias - mantissa_bits_);
  }

  FloatType type_;
  int mantissa_bits_;
  std::vector<double> places_;
};

std::vector<int> Pack(const HalfKernels& kernels, FloatType type, std::span<const float> in) {
  std::vector<std::uint16_t> out(in.size());
  kernels.pack(type, in, reinterpret_cast<std::byte*>(out.data()));
  return {out.begin(), out.end()};
}
std::vector<int> PackStochastic(const HalfKernels& kernels, FloatType type, std::span<const float> in,
                                std::uint64_t stream) {
  std::vector<std::uint16_t> out(in.size());
  kernels.pack_stochastic(type, in, stream, reinterpret_cast<std::byte*>(out.data()));
  return {out.begin(), out.end()};
}
std::vector<float> UnpackAllPatterns(const HalfKernels& kernels, FloatType type) {
  std::vector<std::uint16_t> patterns(kPatterns);
  std::iota(patterns.begin(), patterns.end(), std::uint16_t{0});
  std::vector<float> out(kPatterns);
  kernels.unpack(type, reinterpret_cast<const std::byte*>(patterns.data()), out);
  return out;
}

// Random bits, of which half have an exponent that binary16 rounds, and every kind of edge.
std::vector<float> RandomFloats(std::uint64_t stream, int count) {
  std::vector<float> values;
  for (const std::uint32_t bits :
       {0x00000000U, 0x00000001U, 0x00400000U, 0x007fffffU, 0x00800000U,  // zero and float's subnormals
        0x32ffffffU, 0x33000000U, 0x33000001U, 0x33800000U,               // half of and all of binary16's smallest
        0x387fdfffU, 0x387fe000U, 0x387fffffU, 0x38800000U, 0x38800001U,  // where its subnormals end
        0x477fe000U, 0x477fe001U, 0x477fefffU, 0x477ff000U, 0x477fffffU,  // past its largest finite number
        0x47800000U, 0x47800001U, 0x7f7effffU, 0x7f7f0000U, 0x7f7f0001U,  // and bfloat16's
        0x7f7f7fffU, 0x7f7f8000U, 0x7f7fffffU, 0x7f800000U, 0x7f800001U,  // infinity and signalling NaNs
        0x7f801fffU, 0x7fbfffffU, 0x7fc00000U, 0x7fffffffU, 0x3f800000U}) {
    values.push_back(FloatOf(bits));
    values.push_back(FloatOf(bits | 0x80000000U));
  }
  RandomStream random(kSeed, stream);
  while (values.size() < static_cast<std::size_t>(count)) {
    const auto bits = static_cast<std::uint32_t>(random());
    const auto exponent = static_cast<std::uint32_t>(127 - 27 + random.Below(45));
    values.push_back(FloatOf(values.size() % 2 == 0 ? bits : (bits & 0x807fffffU) | exponent << 23));
  }
  return values;
}

class HalfVariants : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    kernels_ = HalfKernelsFor(GetParam());
    if (kernels_ == nullptr) GTEST_SKIP() << "this CPU lacks the instruction set";
  }
  const HalfKernels* kernels_ = nullptr;
};

TEST_P(HalfVariants, UnpackGivesTheValueOfEveryPattern) {
  for (const FloatType type : kTypes) {
    const Format format(type);
    const std::vector<float> values = UnpackAllPatterns(*kernels_, type);
    for (int pattern = 0; pattern < kPatterns; ++pattern) {
      const float value = values[static_cast<std::size_t>(pattern)];
      const int magnitude = pattern & 0x7fff;
      ASSERT_EQ(std::signbit(value), pattern >= 0x8000) << Name(type) << " pattern " << pattern;
      if (magnitude > format.Infinity()) {
        ASSERT_EQ(BitsOf(value), format.NanBits(pattern)) << Name(type) << " pattern " << pattern;
      } else if (magnitude == format.Infinity()) {
        ASSERT_TRUE(std::isinf(value)) << Name(type) << " pattern " << pattern;
      } else {
        ASSERT_EQ(std::fabs(static_cast<double>(value)), format.Place(magnitude)) << Name(type) << " " << pattern;
      }
    }
  }
}

// What a 16-bit type has comes back as it was, by nearest and whatever the draw; a NaN comes back quiet.
TEST_P(HalfVariants, EveryPatternComesBack) {
  for (const FloatType type : kTypes) {
    const Format format(type);
    const std::vector<float> values = UnpackAllPatterns(*kernels_, type);
    std::vector<int> expected;
    for (int pattern = 0; pattern < kPatterns; ++pattern) {
      const bool nan = (pattern & 0x7fff) > format.Infinity();
      expected.push_back(nan ? pattern | (type == FloatType::kFloat16 ? 0x200 : 0x40) : pattern);
    }
    ASSERT_TRUE(Pack(*kernels_, type, values) == expected) << Name(type);
    for (std::uint64_t stream = 0; stream < 32; ++stream) {
      ASSERT_TRUE(PackStochastic(*kernels_, type, values, RandomBits(kSeed, stream)) == expected)
          << Name(type) << " stream " << stream;
    }
  }
}

TEST_P(HalfVariants, PackRoundsToNearestEven) {
  for (const FloatType type : kTypes) {
    const Format format(type);
    std::vector<float> values = RandomFloats(1, 1'000'000);
    // The middle between every two neighbours, and the floats next to it. Each middle is a float.
    for (int pattern = 0; pattern < format.Infinity(); ++pattern) {
      const auto middle = static_cast<float>((format.Place(pattern) + format.Place(pattern + 1)) / 2);
      for (const std::uint32_t bits : {BitsOf(middle) - 1, BitsOf(middle), BitsOf(middle) + 1}) {
        values.push_back(FloatOf(bits));
        values.push_back(FloatOf(bits | 0x80000000U));
      }
    }
    const std::vector<int> packed = Pack(*kernels_, type, values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(packed[i], format.NearestOf(values[i])) << Name(type) << " of bits " << std::hex << BitsOf(values[i]);
    }
  }
}

TEST_P(HalfVariants, StochasticGivesANeighbour) {
  for (const FloatType type : kTypes) {
    const Format format(type);
    const std::vector<float> values = RandomFloats(2, 1'000'000);
    const std::vector<int> packed = PackStochastic(*kernels_, type, values, RandomBits(kSeed, 2));
    std::size_t ups = 0;
    std::size_t downs = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float value = values[i];
      if (std::isnan(value)) {
        ASSERT_EQ(packed[i], format.Nan(value)) << Name(type) << " of bits " << std::hex << BitsOf(value);
        continue;
      }
      const auto [low, high] = format.Around(std::fabs(static_cast<double>(value)));
      ASSERT_TRUE(packed[i] == (Format::Sign(value) | low) || packed[i] == (Format::Sign(value) | high))
          << Name(type) << " of bits " << std::hex << BitsOf(value) << " is " << packed[i];
      if (low != high) ++((packed[i] & 0x7fff) == high ? ups : downs);
    }
    EXPECT_GT(ups, 200'000U);
    EXPECT_GT(downs, 200'000U);
  }
}

// `draws` times `value`, as rows of `kRow` with a stream each: whether each draw went up, row after row.
constexpr std::size_t kRow = 37;
std::vector<bool> DrawUps(const HalfKernels& kernels, const Format& format, float value, std::size_t rows) {
  const auto [low, high] = format.Around(std::fabs(static_cast<double>(value)));
  const std::vector<float> row(kRow, value);
  std::vector<std::uint16_t> packed(kRow);
  std::vector<bool> ups;
  for (std::size_t i = 0; i < rows; ++i) {
    kernels.pack_stochastic(format.type(), row, RandomBits(kSeed, 3, i), reinterpret_cast<std::byte*>(packed.data()));
    for (const int pattern : packed) ups.push_back((pattern & 0x7fff) == high);
  }
  return ups;
}

// 5 sigma of a binomial count.
void ExpectCount(std::size_t count, std::size_t draws, double probability, const std::string& what) {
  const double mean = static_cast<double>(draws) * probability;
  EXPECT_NEAR(static_cast<double>(count), mean, 5 * std::sqrt(mean * (1 - probability))) << what << " seed " << kSeed;
}

// The share of draws that go up is the distance to the lower neighbour: the mean is the value. In each place of a row.
TEST_P(HalfVariants, StochasticMeanIsTheValue) {
  constexpr std::size_t kRows = 8192;
  for (const FloatType type : kTypes) {
    const Format format(type);
    for (const float value :
         {0.1F, -0.3F, 1.00001F, -1.0009F, 1.0078F, 1234.567F, 65530.0F, -65510.0F, 6.1e-5F,  //
          6.0e-5F, -3.3333e-5F, 1.1e-6F, 5.0e-8F, -1.0e-8F, 1.3e-10F, 1.0e-38F, -3.0e-40F, 3.39e38F}) {
      const double magnitude = std::fabs(static_cast<double>(value));
      const auto [low, high] = format.Around(magnitude);
      if (low == high || magnitude < format.Place(1) * 1e-3) continue;  // beyond this type, or too rare to count
      const double share = (magnitude - format.Place(low)) / (format.Place(high) - format.Place(low));
      const std::vector<bool> ups = DrawUps(*kernels_, format, value, kRows);
      std::size_t total = 0;
      std::vector<std::size_t> by_place(kRow);
      for (std::size_t i = 0; i < ups.size(); ++i) {
        total += ups[i];
        by_place[i % kRow] += ups[i];
      }
      const std::string what = Name(type) + " of " + testing::PrintToString(value);
      ExpectCount(total, ups.size(), share, what);
      if (share < 0.01 || share > 0.99) continue;  // a place sees too few for the normal bound
      for (std::size_t place = 0; place < kRow; ++place) {
        ExpectCount(by_place[place], kRows, share, what + " place " + std::to_string(place));
      }
    }
  }
}

// Small gradients: a value far below the spacing is not lost, nor rounded up more often than it should.
TEST_P(HalfVariants, StochasticHasMoreThanSixteenBitsForSubnormals) {
  const Format format(FloatType::kFloat16);
  const std::vector<bool> ups = DrawUps(*kernels_, format, 0x1.0p-41F, 120'000);
  ExpectCount(static_cast<std::size_t>(std::count(ups.begin(), ups.end(), true)), ups.size(), 0x1.0p-17, "2^-41");
}

TEST_P(HalfVariants, StochasticDrawsOfARowAreIndependent) {
  constexpr std::size_t kRows = 8192;
  const Format format(FloatType::kFloat16);
  for (const float value : {1.00048828125F /* 1 + 2^-11 */, 0x1.8p-24F}) {  // a middle, normal and subnormal
    const std::vector<bool> ups = DrawUps(*kernels_, format, value, kRows);
    for (std::size_t a = 0; a < kRow; ++a) {
      for (std::size_t b = a + 1; b < kRow; ++b) {
        std::size_t both = 0;
        for (std::size_t row = 0; row < kRows; ++row) both += ups[row * kRow + a] && ups[row * kRow + b];
        ExpectCount(both, kRows, 0.25, "places " + std::to_string(a) + " and " + std::to_string(b));
      }
    }
  }
}

class WideHalfVariants : public HalfVariants {};

TEST_P(WideHalfVariants, HaveTheBitsOfTheBaseline) {
  const HalfKernels* baseline = HalfKernelsFor(Isa::kBaseline);
  ASSERT_NE(baseline, nullptr);
  for (const FloatType type : kTypes) {
    for (std::uint64_t stream = 10; stream < 14; ++stream) {
      const std::vector<float> values = RandomFloats(stream, 1'000'003);
      ASSERT_TRUE(Pack(*kernels_, type, values) == Pack(*baseline, type, values)) << Name(type);
      ASSERT_TRUE(PackStochastic(*kernels_, type, values, stream) == PackStochastic(*baseline, type, values, stream))
          << Name(type) << " stream " << stream;
    }
    ASSERT_TRUE(SameBits(UnpackAllPatterns(*kernels_, type), UnpackAllPatterns(*baseline, type))) << Name(type);
  }
}

// Every length at every alignment gives the bits that the long array gave, and touches nothing beside its own bytes.
TEST_P(HalfVariants, TailsAreLikeTheRestAtAnyAlignment) {
  constexpr std::size_t kLongest = 40;
  constexpr std::uint64_t kStream = 99;
  const std::byte guard{0xa5};
  for (const FloatType type : kTypes) {
    for (std::uint64_t draw = 0; draw < 20; ++draw) {
      const std::vector<float> pool = RandomFloats(20 + draw, 200);
      const std::vector<float> values(pool.end() - kLongest, pool.end());
      const std::vector<int> nearest = Pack(*HalfKernelsFor(Isa::kBaseline), type, values);
      const std::vector<int> stochastic = PackStochastic(*HalfKernelsFor(Isa::kBaseline), type, values, kStream);
      const std::vector<float> by_pattern = UnpackAllPatterns(*HalfKernelsFor(Isa::kBaseline), type);
      for (std::size_t length = 0; length <= kLongest; ++length) {
        for (std::size_t offset = 0; offset < 4; ++offset) {
          const std::string what = Name(type) + " " + std::to_string(length) + " floats at " + std::to_string(offset);
          const std::span<const float> in(values.data(), length);
          for (const bool random : {false, true}) {
            std::vector<std::byte> out(offset + 2 * length + 64, guard);
            if (random) {
              kernels_->pack_stochastic(type, in, kStream, out.data() + offset);
            } else {
              kernels_->pack(type, in, out.data() + offset);
            }
            std::vector<float> back(length + 16, -7.0F);
            kernels_->unpack(type, out.data() + offset, std::span(back.data(), length));
            for (std::size_t i = 0; i < length; ++i) {
              std::uint16_t pattern = 0;
              std::memcpy(&pattern, out.data() + offset + 2 * i, sizeof(pattern));
              ASSERT_EQ(pattern, (random ? stochastic : nearest)[i]) << what << " element " << i;
              ASSERT_EQ(BitsOf(back[i]), BitsOf(by_pattern[pattern])) << what << " element " << i;
            }
            for (std::size_t i = 0; i < offset; ++i) ASSERT_EQ(out[i], guard) << what;
            for (std::size_t i = offset + 2 * length; i < out.size(); ++i) ASSERT_EQ(out[i], guard) << what;
            for (std::size_t i = length; i < back.size(); ++i) ASSERT_EQ(back[i], -7.0F) << what;
          }
        }
      }
    }
  }
}

TEST_P(HalfVariants, Float32IsCopied) {
  const std::vector<float> values = RandomFloats(4, 201);
  std::vector<std::byte> packed(values.size() * sizeof(float) + 1);
  std::vector<float> back(values.size());
  const auto expect_copy = [&](const std::string& what) {
    EXPECT_EQ(std::memcmp(packed.data() + 1, values.data(), values.size() * sizeof(float)), 0) << what;
    kernels_->unpack(FloatType::kFloat32, packed.data() + 1, back);
    EXPECT_TRUE(SameBits(back, values)) << what;
    std::fill(packed.begin(), packed.end(), std::byte{0});
  };
  kernels_->pack(FloatType::kFloat32, values, packed.data() + 1);
  expect_copy("nearest");
  kernels_->pack_stochastic(FloatType::kFloat32, values, 5, packed.data() + 1);
  expect_copy("stochastic");
  for (const FloatType type : {FloatType::kFloat32, FloatType::kFloat16, FloatType::kBfloat16}) {  // empty, no memory
    kernels_->pack(type, {}, nullptr);
    kernels_->pack_stochastic(type, {}, 5, nullptr);
    kernels_->unpack(type, nullptr, {});
  }
}

// Of common dimensions and others, as pack and unpack of one row after the other.
TEST_P(HalfVariants, RowsGoToShardsAndComeBack) {
  const std::vector<std::uint16_t> shards = {2, 0, 0, 2, 1, 0, 2};
  constexpr std::size_t kShards = 4;  // the last one has none
  for (const FloatType type : {FloatType::kFloat32, FloatType::kFloat16, FloatType::kBfloat16}) {
    for (const std::size_t dim : {1U, 7U, 8U, 16U, 17U, 32U, 33U, 64U, 100U}) {
      const std::size_t row_bytes = dim * BytesOf(type);
      const std::vector<float> values = RandomFloats(dim, shards.size() * dim);
      std::vector<std::vector<std::byte>> expected(kShards);
      std::vector<float> expected_back(values.size());
      for (std::size_t i = 0; i < shards.size(); ++i) {
        std::vector<std::byte>& packed = expected[shards[i]];
        packed.resize(packed.size() + row_bytes);
        kernels_->pack(type, std::span(values).subspan(i * dim, dim), packed.data() + packed.size() - row_bytes);
        kernels_->unpack(type, packed.data() + packed.size() - row_bytes, std::span(expected_back).subspan(i * dim, dim));
      }
      std::vector<std::vector<std::byte>> dealt(kShards);
      std::vector<std::byte*> to(kShards);
      std::vector<const std::byte*> from(kShards);
      for (std::size_t s = 0; s < kShards; ++s) {
        dealt[s].resize(expected[s].size() + 1);  // at an odd address, as rows of a message may be
        to[s] = dealt[s].data() + 1;
        from[s] = dealt[s].data() + 1;
      }
      kernels_->deal_rows(type, values.data(), dim, shards, to.data());
      std::vector<float> back(values.size());
      kernels_->collect_rows(type, from.data(), dim, shards, back.data());
      EXPECT_TRUE(SameBits(back, expected_back)) << NameOf(type) << " " << dim;
      for (std::size_t s = 0; s < kShards; ++s) {
        EXPECT_TRUE(std::equal(expected[s].begin(), expected[s].end(), dealt[s].begin() + 1)) << NameOf(type) << " " << dim;
        EXPECT_EQ(to[s], dealt[s].data() + dealt[s].size());
        EXPECT_EQ(from[s], to[s]);
      }
    }
  }
}

std::string IsaName(const testing::TestParamInfo<Isa>& test) {
  if (test.param == Isa::kBaseline) return "Baseline";
  return test.param == Isa::kAvx2 ? "Avx2" : "Avx512";
}
INSTANTIATE_TEST_SUITE_P(Isas, HalfVariants, testing::Values(Isa::kBaseline, Isa::kAvx2, Isa::kAvx512), IsaName);
INSTANTIATE_TEST_SUITE_P(Isas, WideHalfVariants, testing::Values(Isa::kAvx2, Isa::kAvx512), IsaName);

TEST(Half, KnownValues) {
  const HalfKernels& half = BestHalfKernels();
  const std::vector<float> values = {1.0F, -2.0F, 0.1F, 65504.0F, 65520.0F, 0x1.0p-24F, 0x1.0p-25F, 0x1.8p-25F};
  EXPECT_EQ(Pack(half, FloatType::kFloat16, values),
            (std::vector<int>{0x3c00, 0xc000, 0x2e66, 0x7bff, 0x7c00, 0x0001, 0x0000, 0x0001}));
  EXPECT_EQ(Pack(half, FloatType::kBfloat16, values),
            (std::vector<int>{0x3f80, 0xc000, 0x3dcd, 0x4780, 0x4780, 0x3380, 0x3300, 0x3340}));
}

TEST(Half, FreeFunctionsAreTheBestKernels) {
  const std::vector<float> values = RandomFloats(5, 1001);
  for (const FloatType type : {FloatType::kFloat32, FloatType::kFloat16, FloatType::kBfloat16}) {
    const std::size_t bytes = values.size() * BytesOf(type);
    std::vector<std::byte> expected(bytes);
    std::vector<std::byte> actual(bytes);
    BestHalfKernels().pack(type, values, expected.data());
    PackFloats(type, values, actual.data());
    EXPECT_TRUE(actual == expected);
    std::vector<float> expected_back(values.size());
    std::vector<float> actual_back(values.size());
    BestHalfKernels().unpack(type, expected.data(), expected_back);
    UnpackFloats(type, expected.data(), actual_back);
    EXPECT_TRUE(SameBits(actual_back, expected_back));
    BestHalfKernels().pack_stochastic(type, values, 6, expected.data());
    PackFloatsStochastic(type, values, 6, actual.data());
    EXPECT_TRUE(actual == expected);
  }
}

TEST(Half, BytesOfEachType) {
  EXPECT_EQ(BytesOf(FloatType::kFloat32), 4U);
  EXPECT_EQ(BytesOf(FloatType::kFloat16), 2U);
  EXPECT_EQ(BytesOf(FloatType::kBfloat16), 2U);
}

}  // namespace
}  // namespace gatemill::ps
