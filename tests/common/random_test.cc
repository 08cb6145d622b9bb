#include "common/random.h"

#include <gtest/gtest.h>

namespace gatemill {
namespace {

TEST(Random, DrawsAreFunctionsOfTheirNames) {
  EXPECT_EQ(RandomBits(1, 2, 3), RandomBits(1, 2, 3));
  EXPECT_NE(RandomBits(1, 2, 3), RandomBits(1, 3, 2));
  EXPECT_NE(RandomBits(1, 2, 3), RandomBits(2, 2, 3));
}

TEST(Random, UniformAndNormalHaveTheirMoments) {
  RandomStream stream(7, 1);
  double sum = 0;
  double normal_sum = 0;
  double normal_squares = 0;
  constexpr int kDraws = 200000;
  for (int i = 0; i < kDraws; ++i) {
    const double u = stream.Uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    const double n = stream.Normal();
    normal_sum += n;
    normal_squares += n * n;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  EXPECT_NEAR(normal_sum / kDraws, 0.0, 0.01);
  EXPECT_NEAR(normal_squares / kDraws, 1.0, 0.02);
}

TEST(Random, BelowStaysBelow) {
  RandomStream stream(7, 2);
  std::vector<int> hits(10, 0);
  for (int i = 0; i < 10000; ++i) ++hits[stream.Below(10)];
  for (int n : hits) EXPECT_NEAR(n, 1000, 150);
}

}  // namespace
}  // namespace gatemill
