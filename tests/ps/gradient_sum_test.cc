#include "ps/gradient_sum.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "common/random.h"

namespace gatemill::ps {
namespace {

TEST(GradientSum, AddsKeyByKeyInTheOrderOfTheCalls) {
  GradientSum sum;
  sum.Reset(2, 4);
  sum.Add(std::vector<std::uint64_t>{7, 0}, std::vector<float>{1e8F, 1, 2, 3});
  sum.Add(std::vector<std::uint64_t>{~0ULL, 7}, std::vector<float>{4, 5, 1, 10});
  sum.Add(std::vector<std::uint64_t>{7}, std::vector<float>{-1e8F, 100});
  ASSERT_EQ(std::vector(sum.keys().begin(), sum.keys().end()), (std::vector<std::uint64_t>{7, 0, ~0ULL}));
  // (1e8 + 1) - 1e8 in single precision is 0: another order would give 1.
  EXPECT_EQ(std::vector(sum.grads().begin(), sum.grads().end()), (std::vector<float>{0, 111, 2, 3, 4, 5}));
}

TEST(GradientSum, ResetForgets) {
  GradientSum sum;
  sum.Reset(1, 1);
  sum.Add(std::vector<std::uint64_t>{3}, std::vector<float>{1});
  sum.Reset(1, 1);
  sum.Add(std::vector<std::uint64_t>{3}, std::vector<float>{2});
  EXPECT_EQ(sum.keys().size(), 1U);
  EXPECT_EQ(sum.grads()[0], 2.0F);
}

TEST(GradientSum, AgreesWithAMap) {
  constexpr std::uint64_t kSeed = 31;
  constexpr std::size_t kDim = 5;
  RandomStream random(kSeed, 0);
  GradientSum sum;
  std::map<std::uint64_t, std::vector<float>> model;
  sum.Reset(kDim, 4 * 500);
  for (int worker = 0; worker < 4; ++worker) {
    std::map<std::uint64_t, bool> unique;
    for (int i = 0; i < 500; ++i) unique[random.Below(900)] = true;
    std::vector<std::uint64_t> keys;
    std::vector<float> grads;
    for (const auto& [key, present] : unique) {
      keys.push_back(key);
      std::vector<float>& row = model[key];
      const bool first = row.empty();
      row.resize(kDim);
      for (float& value : row) {
        const auto grad = static_cast<float>(random.Uniform() - 0.5);
        grads.push_back(grad);
        value = first ? grad : value + grad;
      }
    }
    sum.Add(keys, grads);
  }
  ASSERT_EQ(sum.keys().size(), model.size());
  for (std::size_t i = 0; i < sum.keys().size(); ++i) {
    const std::vector<float>& expected = model[sum.keys()[i]];
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), sum.grads().begin() + static_cast<long>(i * kDim)))
        << "seed " << kSeed;
  }
}

}  // namespace
}  // namespace gatemill::ps
