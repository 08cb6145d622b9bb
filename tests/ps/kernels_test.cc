#include "ps/table/kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "common/random.h"

namespace gatemill::ps {
namespace {

constexpr std::uint64_t kSeed = 20180823;

std::vector<float> Draw(RandomStream* random, int count, double low, double high) {
  std::vector<float> values;
  for (int i = 0; i < count; ++i) values.push_back(static_cast<float>(low + (high - low) * random->Uniform()));
  return values;
}

void ExpectSameBits(const std::vector<float>& a, const std::vector<float>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(a[i]), std::bit_cast<std::uint32_t>(b[i])) << what << " element " << i;
  }
}

// A row with room for every optimizer's state.
struct Row {
  std::vector<float> weights;
  std::vector<float> first;   // not negative
  std::vector<float> second;  // not negative
};

class KernelVariants : public testing::TestWithParam<Isa> {};

// Runs `apply` on the same row with the baseline and with the variant, several steps in a row.
template <typename Apply>
void CompareWithBaseline(Isa isa, const Apply& apply) {
  const Kernels* variant = KernelsFor(isa);
  if (variant == nullptr) GTEST_SKIP() << "this CPU lacks the instruction set";
  const Kernels* baseline = KernelsFor(Isa::kBaseline);
  ASSERT_NE(baseline, nullptr);
  for (const int dim : {1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 48, 64, 100, 129}) {
    RandomStream random(kSeed, static_cast<std::uint64_t>(dim));
    Row expected{Draw(&random, dim, -1, 1), Draw(&random, dim, 0, 2), Draw(&random, dim, 0, 2)};
    Row actual = expected;
    for (int step = 0; step < 20; ++step) {
      const std::vector<float> grad = Draw(&random, dim, -3, 3);
      apply(*baseline, &expected, grad);
      apply(*variant, &actual, grad);
    }
    const std::string what = "dim " + std::to_string(dim) + " seed " + std::to_string(kSeed);
    ExpectSameBits(expected.weights, actual.weights, what + " weights");
    ExpectSameBits(expected.first, actual.first, what + " first state");
    ExpectSameBits(expected.second, actual.second, what + " second state");
  }
}

TEST_P(KernelVariants, SgdHasTheSameBits) {
  CompareWithBaseline(GetParam(), [](const Kernels& kernels, Row* row, const std::vector<float>& grad) {
    kernels.sgd(row->weights.data(), grad.data(), static_cast<int>(grad.size()), {.lr = 0.1F});
  });
}

TEST_P(KernelVariants, AdagradHasTheSameBits) {
  CompareWithBaseline(GetParam(), [](const Kernels& kernels, Row* row, const std::vector<float>& grad) {
    kernels.adagrad(row->weights.data(), row->first.data(), grad.data(), static_cast<int>(grad.size()),
                    {.lr = 0.1F, .eps = 1e-10F});
  });
}

TEST_P(KernelVariants, RowwiseAdagradHasTheSameBits) {
  CompareWithBaseline(GetParam(), [](const Kernels& kernels, Row* row, const std::vector<float>& grad) {
    kernels.rowwise_adagrad(row->weights.data(), row->first.data(), grad.data(), static_cast<int>(grad.size()),
                            {.lr = 0.1F, .eps = 1e-10F});
  });
}

TEST_P(KernelVariants, AdamHasTheSameBits) {
  CompareWithBaseline(GetParam(), [](const Kernels& kernels, Row* row, const std::vector<float>& grad) {
    kernels.adam(row->weights.data(), row->first.data(), row->second.data(), grad.data(), static_cast<int>(grad.size()),
                 {.step_size = 0.03F, .one_minus_beta1 = 0.1F, .one_minus_beta2 = 0.001F, .eps = 1e-8F});
  });
}

TEST_P(KernelVariants, FtrlHasTheSameBits) {
  CompareWithBaseline(GetParam(), [](const Kernels& kernels, Row* row, const std::vector<float>& grad) {
    kernels.ftrl(row->weights.data(), row->first.data(), row->second.data(), grad.data(), static_cast<int>(grad.size()),
                 {.lr = 0.1F, .l1 = 0.5F, .l2 = 0.01F, .beta = 1.0F});
  });
}

TEST_P(KernelVariants, AddHasTheSameBits) {
  CompareWithBaseline(GetParam(), [](const Kernels& kernels, Row* row, const std::vector<float>& grad) {
    kernels.add(row->weights.data(), grad.data(), static_cast<int>(grad.size()));
  });
}

INSTANTIATE_TEST_SUITE_P(Isas, KernelVariants, testing::Values(Isa::kAvx2, Isa::kAvx512),
                         [](const auto& test) { return test.param == Isa::kAvx2 ? "Avx2" : "Avx512"; });

// The order of the sum that ps/table/optimizer.h promises, written out element by element.
TEST(Kernels, RowwiseSumFoldsSixteenLanesPairwise) {
  constexpr int kDim = 37;
  RandomStream random(kSeed, 1);
  const std::vector<float> grad = Draw(&random, kDim, -3, 3);
  float lanes[16] = {};
  for (int i = 0; i < kDim; ++i) lanes[i % 16] += grad[static_cast<std::size_t>(i)] * grad[static_cast<std::size_t>(i)];
  for (int width = 8; width >= 1; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  std::vector<float> row(kDim, 0.0F);
  float sum = 0.25F;
  BestKernels().rowwise_adagrad(row.data(), &sum, grad.data(), kDim, {.lr = 0.1F, .eps = 0.0F});
  EXPECT_EQ(sum, 0.25F + lanes[0] / kDim);
}

}  // namespace
}  // namespace gatemill::ps
