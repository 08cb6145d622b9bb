#include "worker/model/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/Parallel.h>

#include "common/random.h"

namespace gatemill::model::kernels {
namespace {

std::vector<float> Draw(std::size_t count, std::uint64_t seed) {
  RandomStream random(seed, 0);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.Normal());
  return values;
}

TEST(Kernels, TransposeMovesEveryNumber) {
  for (const auto& [rows, columns] : {std::pair{1, 1}, {3, 70}, {200, 33}, {1000, 100}}) {
    const auto x = Draw(static_cast<std::size_t>(rows * columns), 1);
    std::vector<float> y(x.size());
    Transpose(x.data(), rows, columns, y.data());
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) ASSERT_EQ(y[static_cast<std::size_t>(c * rows + r)], x[static_cast<std::size_t>(r * columns + c)]);
    }
  }
}

TEST(Kernels, DropoutMaskKeepsItsShareAndDependsOnWhatItIsFor) {
  constexpr std::size_t kRows = 500;
  constexpr std::int64_t kColumns = 200;
  const auto mask_of = [&](std::uint64_t seed, std::uint64_t step, std::uint32_t layer) {
    std::vector<DropoutRow> starts;
    for (std::uint64_t i = 0; i < kRows; ++i) starts.push_back(DropoutStart(seed, step, i, layer));
    std::vector<float> mask(kRows * kColumns);
    DropoutMask(starts, kColumns, 0.3, mask.data());
    return mask;
  };
  const auto mask = mask_of(1, 2, 3);
  EXPECT_EQ(mask, mask_of(1, 2, 3));
  const auto agreement = [&](const std::vector<float>& other) {
    double same = 0;
    for (std::size_t i = 0; i < mask.size(); ++i) same += mask[i] == other[i] ? 1 : 0;
    return same / static_cast<double>(mask.size());
  };
  // Independent masks agree on 0.7^2 + 0.3^2 = 0.58 of the units.
  EXPECT_NEAR(agreement(mask_of(2, 2, 3)), 0.58, 0.01);
  EXPECT_NEAR(agreement(mask_of(1, 3, 3)), 0.58, 0.01);
  EXPECT_NEAR(agreement(mask_of(1, 2, 4)), 0.58, 0.01);
  double dropped = 0;
  std::vector<double> per_column(kColumns, 0);
  for (std::size_t i = 0; i < mask.size(); ++i) {
    ASSERT_TRUE(mask[i] == 0.0F || mask[i] == static_cast<float>(1.0 / 0.7));
    dropped += mask[i] == 0.0F ? 1 : 0;
    per_column[i % kColumns] += mask[i] == 0.0F ? 1 : 0;
  }
  EXPECT_NEAR(dropped / static_cast<double>(mask.size()), 0.3, 0.006);
  for (const double count : per_column) EXPECT_NEAR(count / kRows, 0.3, 0.1);
}

TEST(Kernels, ActivateCutsItsBlockAndAppliesReluAndDropout) {
  constexpr std::size_t kRows = 70;
  const auto z = Draw(kRows * 10, 2);
  std::vector<DropoutRow> starts;
  for (std::uint64_t i = 0; i < kRows; ++i) starts.push_back(DropoutStart(1, 1, i, 1));
  std::vector<float> mask(kRows * 4);
  DropoutMask(starts, 4, 0.5, mask.data());
  const Block block{.column = 3, .columns = 4, .relu = true, .dropout_ratio = 0.5};
  std::vector<float> y(kRows * 4);
  Activate(z.data(), kRows, 10, block, starts, y.data());
  const auto grad_y = Draw(kRows * 4, 3);
  std::vector<float> grad_z(kRows * 10, 7.0F);
  ActivateGradient(y.data(), grad_y.data(), kRows, 10, block, grad_z.data());
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t c = 0; c < 4; ++c) {
      const float in = z[r * 10 + 3 + c];
      ASSERT_EQ(y[r * 4 + c], (in > 0 ? in : 0.0F) * mask[r * 4 + c]);
      ASSERT_EQ(grad_z[r * 10 + 3 + c], in > 0 ? grad_y[r * 4 + c] * mask[r * 4 + c] : 0.0F);
    }
    ASSERT_EQ(grad_z[r * 10 + 2], 7.0F);
    ASSERT_EQ(grad_z[r * 10 + 7], 7.0F);
  }
  ActivateGradient(y.data(), nullptr, kRows, 10, block, grad_z.data());
  EXPECT_EQ(grad_z[3], 0.0F);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  float out = 0;
  Activate(&nan, 1, 1, {.column = 0, .columns = 1, .relu = true}, {}, &out);
  EXPECT_TRUE(std::isnan(out));
}

TEST(Kernels, ColumnSumsHaveTheSameBitsWithAnyNumberOfThreads) {
  const auto x = Draw(1000 * 300, 4);
  std::vector<float> one(300);
  std::vector<float> two(300);
  at::set_num_threads(1);
  ColumnSums(x.data(), 1000, 300, one.data());
  at::set_num_threads(2);
  ColumnSums(x.data(), 1000, 300, two.data());
  EXPECT_EQ(one, two);
  for (std::size_t c = 0; c < 300; ++c) {
    double sum = 0;
    for (std::size_t r = 0; r < 1000; ++r) sum += x[r * 300 + c];
    ASSERT_NEAR(one[c], sum, 1e-3);
  }
}

TEST(Kernels, MixIsASoftmaxWeightedSumAndItsGradientIsNumericallyRight) {
  constexpr std::size_t kRows = 3;
  constexpr std::size_t kWidth = 37;
  const Members members = {{0, 1, 2, 3}, {3, 1}};  // the second gate has some of the experts, in an order of its own
  const std::size_t gates = members.size();
  const std::size_t experts_count = 4;
  std::vector<std::vector<float>> inputs;
  for (std::size_t g = 0; g < gates; ++g) inputs.push_back(Draw(kRows * members[g].size(), 10 + g));
  for (std::size_t e = 0; e < experts_count; ++e) inputs.push_back(Draw(kRows * kWidth, 20 + e));
  inputs[0][0] = 90.0F;  // a gate that is all on one expert
  inputs[0][1] = -300.0F;
  // A double reference of sum over outputs of c * mixed.
  const std::vector<std::vector<float>> c = {Draw(kRows * kWidth, 30), Draw(kRows * kWidth, 31)};
  const auto total = [&](const std::vector<std::vector<float>>& in) {
    double sum = 0;
    for (std::size_t g = 0; g < gates; ++g) {
      const std::size_t count = members[g].size();
      for (std::size_t r = 0; r < kRows; ++r) {
        double norm = 0;
        double largest = -1e30;
        for (std::size_t e = 0; e < count; ++e) largest = std::max<double>(largest, in[g][r * count + e]);
        for (std::size_t e = 0; e < count; ++e) norm += std::exp(in[g][r * count + e] - largest);
        for (std::size_t e = 0; e < count; ++e) {
          const double weight = std::exp(in[g][r * count + e] - largest) / norm;
          const std::vector<float>& expert = in[gates + static_cast<std::size_t>(members[g][e])];
          for (std::size_t i = 0; i < kWidth; ++i) sum += weight * expert[r * kWidth + i] * c[g][r * kWidth + i];
        }
      }
    }
    return sum;
  };
  const auto pointers = [](std::vector<std::vector<float>>& from, std::size_t first, std::size_t count) {
    std::vector<float*> result;
    for (std::size_t i = 0; i < count; ++i) result.push_back(from[first + i].data());
    return result;
  };
  const auto logits = pointers(inputs, 0, gates);
  const auto experts = pointers(inputs, gates, experts_count);
  std::vector<std::vector<float>> mixed(gates, std::vector<float>(kRows * kWidth));
  std::vector<double> sums(members[0].size() + members[1].size());
  std::vector<float> weights(kRows * sums.size());
  const std::vector<const float*> const_logits(logits.begin(), logits.end());
  const std::vector<const float*> const_experts(experts.begin(), experts.end());
  Mix(members, const_logits, const_experts, kRows, kWidth, weights.data(), pointers(mixed, 0, gates), sums);
  double actual = 0;
  for (std::size_t g = 0; g < gates; ++g) {
    for (std::size_t i = 0; i < kRows * kWidth; ++i) actual += mixed[g][i] * c[g][i];
  }
  EXPECT_NEAR(actual, total(inputs), 1e-4);
  double shares = 0;
  for (const double sum : sums) shares += sum;
  EXPECT_NEAR(shares, 2.0 * kRows, 1e-5);

  std::vector<std::vector<float>> grads;
  for (const auto& input : inputs) grads.emplace_back(input.size());
  const std::vector<const float*> grad_mixed = {c[0].data(), c[1].data()};
  MixGradient(members, grad_mixed, const_experts, weights.data(), kRows, kWidth, pointers(grads, 0, gates),
              pointers(grads, gates, experts_count));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    for (std::size_t at = 0; at < inputs[i].size(); at += i < gates ? 1 : 5) {
      auto shifted = inputs;
      shifted[i][at] += 1e-2F;
      const double up = total(shifted);
      shifted[i][at] -= 2e-2F;
      ASSERT_NEAR(grads[i][at], (up - total(shifted)) / 2e-2, 2e-3) << i << " " << at;
    }
  }
}

}  // namespace
}  // namespace gatemill::model::kernels
