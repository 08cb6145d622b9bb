#include "ps/table/initializer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/keys.h"
#include "common/random.h"
#include "ps/table/isa.h"
#include "ps/table/table.h"

namespace gatemill::ps {
namespace {

std::vector<float> Fill(const InitializerConfig& config, const std::string& table, std::uint64_t seed,
                        std::uint64_t key, std::size_t dim) {
  std::vector<float> row(dim);
  RowInitializer(config, table, seed).Fill(key, row);
  return row;
}

TEST(RowInitializer, DependsOnSeedTableAndKeyAlone) {
  for (const std::string type : {"uniform", "normal"}) {
    const InitializerConfig config{.type = type, .scale = 0.1};
    const std::vector<float> row = Fill(config, "user", 1, 42, 16);
    EXPECT_EQ(row, Fill(config, "user", 1, 42, 16));
    EXPECT_NE(row, Fill(config, "user", 2, 42, 16));
    EXPECT_NE(row, Fill(config, "item", 1, 42, 16));
    EXPECT_NE(row, Fill(config, "user", 1, 43, 16));
    std::vector<float> direct(16);
    InitialRow({.name = "user", .dim = 16, .initializer = config, .optimizer = {}, .oov_rows = 0}, 1, 42, direct);
    EXPECT_EQ(row, direct);
  }
}

struct Moments {
  double mean = 0;
  double variance = 0;
  double fourth = 0;
  double lowest = 0;
  double highest = 0;
  double neighbours = 0;  // covariance of elements 2i and 2i + 1
};

Moments Measure(const InitializerConfig& config) {
  constexpr int kKeys = 20000;
  constexpr std::size_t kDim = 8;
  Moments moments;
  for (std::uint64_t key = 0; key < kKeys; ++key) {
    const std::vector<float> row = Fill(config, "t", 5, key, kDim);
    for (std::size_t i = 0; i < kDim; ++i) {
      const double x = row[i];
      moments.mean += x / (kKeys * kDim);
      moments.variance += x * x / (kKeys * kDim);
      moments.fourth += x * x * x * x / (kKeys * kDim);
      moments.lowest = std::min(moments.lowest, x);
      moments.highest = std::max(moments.highest, x);
      if (i % 2 == 1) moments.neighbours += x * row[i - 1] / (kKeys * kDim / 2);
    }
  }
  return moments;
}

TEST(RowInitializer, UniformIsTheSameOnEveryInstructionSet) {
  for (const std::size_t dim : {1, 7, 16, 17, 48, 100}) {
    for (std::uint64_t key = 0; key < 20; ++key) {
      std::vector<float> expected(dim);  // the formula, element by element
      for (std::size_t i = 0; i < dim; ++i) {
        const std::uint64_t bits = RandomBits(RandomBits(5, TableSalt("t")), key, i / 2);
        expected[i] = 0.3F * (2.0F * ToUniformFloat(i % 2 == 0 ? bits : bits << 32) - 1.0F);
      }
      for (const Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
        if (!IsaSupported(isa)) continue;
        std::vector<float> row(dim);
        RowInitializer({.type = "uniform", .scale = 0.3F}, "t", 5, FloatType::kFloat32, isa).Fill(key, row);
        EXPECT_EQ(row, expected) << "instruction set " << static_cast<int>(isa) << ", key " << key << ", dim " << dim;
      }
    }
  }
}

TEST(RowInitializer, UniformFillsItsRangeEvenly) {
  const Moments moments = Measure({.type = "uniform", .scale = 1.0});
  EXPECT_NEAR(moments.mean, 0.0, 0.01);
  EXPECT_NEAR(moments.variance, 1.0 / 3, 0.01);
  EXPECT_NEAR(moments.fourth, 1.0 / 5, 0.01);
  EXPECT_NEAR(moments.neighbours, 0.0, 0.01);
  EXPECT_GE(moments.lowest, -1.0);
  EXPECT_LT(moments.lowest, -0.99);
  EXPECT_LT(moments.highest, 1.0);
  EXPECT_GT(moments.highest, 0.99);
}

TEST(RowInitializer, NormalHasItsMoments) {
  const Moments moments = Measure({.type = "normal", .scale = 1.0});
  EXPECT_NEAR(moments.mean, 0.0, 0.02);
  EXPECT_NEAR(moments.variance, 1.0, 0.02);
  EXPECT_NEAR(moments.fourth, 3.0, 0.15);
  EXPECT_NEAR(moments.neighbours, 0.0, 0.02);
  EXPECT_GT(moments.highest, 3.5);
  EXPECT_LT(moments.lowest, -3.5);
}

TEST(RowInitializer, ZerosAreZeros) {
  EXPECT_EQ(Fill({.type = "zeros", .scale = 1.0}, "t", 1, 2, 3), std::vector<float>(3, 0.0F));
}

TEST(RowInitializer, CheckNamesWhatIsWrong) {
  EXPECT_TRUE(RowInitializer::Check({.type = "normal", .scale = 0.0}).ok());
  EXPECT_EQ(RowInitializer::Check({.type = "xavier", .scale = 0.1}).code(), Code::kInvalidInput);
  EXPECT_EQ(RowInitializer::Check({.type = "normal", .scale = -0.1}).code(), Code::kInvalidInput);
}

}  // namespace
}  // namespace gatemill::ps
