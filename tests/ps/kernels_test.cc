#include "ps/table/kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "common/random.h"
#include "ps/table/half.h"
#include "ps/table/row_index.h"
#include "tests/ps/one_row.h"

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

class KernelVariants : public testing::TestWithParam<Isa> {};

// Many rows of a table in one call: numbers out of order, some twice.
struct Rows {
  Rows(int dim, int state_floats, RandomStream* random)
      : embeddings(Draw(random, kRows * dim, -1, 1)), states(Draw(random, kRows * (2 + state_floats), 0, 2)) {
    memory = {.embeddings = reinterpret_cast<std::byte*>(embeddings.data()),
              .states = reinterpret_cast<std::byte*>(states.data()),
              .dim = static_cast<std::size_t>(dim),
              .state_bytes = sizeof(PackedHeader) + static_cast<std::size_t>(state_floats) * sizeof(float)};
    for (std::uint32_t row = 0; row < kRows; ++row) *memory.Header(row) = {};
  }
  Rows(const Rows& other) : embeddings(other.embeddings), states(other.states), memory(other.memory) {
    memory.embeddings = reinterpret_cast<std::byte*>(embeddings.data());
    memory.states = reinterpret_cast<std::byte*>(states.data());
  }
  static constexpr int kRows = 40;
  std::vector<float> embeddings;
  std::vector<float> states;  // headers among them; not negative
  RowMemory memory;
};

// Runs `apply` on the same rows with the baseline and with the variant, several steps in a row.
template <typename Apply>
void CompareWithBaseline(Isa isa, int state_floats_each, int state_floats, const Apply& apply) {
  const Kernels* variant = KernelsFor(isa);
  if (variant == nullptr) GTEST_SKIP() << "this CPU lacks the instruction set";
  const Kernels* baseline = KernelsFor(Isa::kBaseline);
  ASSERT_NE(baseline, nullptr);
  for (const int dim : {1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 48, 64, 100, 129}) {
    RandomStream random(kSeed, static_cast<std::uint64_t>(dim));
    Rows expected(dim, state_floats_each * dim + state_floats, &random);
    Rows actual = expected;
    const std::string what = "dim " + std::to_string(dim) + " seed " + std::to_string(kSeed);
    for (std::uint32_t step = 0; step < 20; ++step) {
      std::vector<std::uint32_t> rows;
      for (int i = 0; i < 25; ++i) rows.push_back(static_cast<std::uint32_t>(random.Below(Rows::kRows)));
      const std::vector<float> grads = Draw(&random, 25 * dim, -3, 3);
      const RowGrads batch{.rows = rows.data(), .grads = grads.data(), .count = rows.size(), .step = step};
      ASSERT_EQ(apply(*baseline, expected.memory, batch), apply(*variant, actual.memory, batch)) << what;
    }
    ExpectSameBits(expected.embeddings, actual.embeddings, what + " embeddings");
    ExpectSameBits(expected.states, actual.states, what + " headers and states");
  }
}

TEST_P(KernelVariants, SgdHasTheSameBits) {
  CompareWithBaseline(GetParam(), 0, 0, [](const Kernels& kernels, const RowMemory& memory, const RowGrads& grads) {
    return kernels.sgd(memory, grads, {.lr = 0.1F});
  });
}

TEST_P(KernelVariants, AdagradHasTheSameBits) {
  CompareWithBaseline(GetParam(), 1, 0, [](const Kernels& kernels, const RowMemory& memory, const RowGrads& grads) {
    return kernels.adagrad(memory, grads, {.lr = 0.1F, .eps = 1e-10F});
  });
}

TEST_P(KernelVariants, RowwiseAdagradHasTheSameBits) {
  CompareWithBaseline(GetParam(), 0, 1, [](const Kernels& kernels, const RowMemory& memory, const RowGrads& grads) {
    return kernels.rowwise_adagrad(memory, grads, {.lr = 0.1F, .eps = 1e-10F});
  });
}

TEST_P(KernelVariants, AdamHasTheSameBits) {
  CompareWithBaseline(GetParam(), 2, 0, [](const Kernels& kernels, const RowMemory& memory, const RowGrads& grads) {
    return kernels.adam(memory, grads,
                        {.step_size = 0.03F, .one_minus_beta1 = 0.1F, .one_minus_beta2 = 0.001F, .eps = 1e-8F});
  });
}

TEST_P(KernelVariants, FtrlHasTheSameBits) {
  CompareWithBaseline(GetParam(), 2, 0, [](const Kernels& kernels, const RowMemory& memory, const RowGrads& grads) {
    return kernels.ftrl(memory, grads, {.lr = 0.1F, .l1 = 0.5F, .l2 = 0.01F, .beta = 1.0F});
  });
}

TEST_P(KernelVariants, AddHasTheSameBits) {
  const Kernels* variant = KernelsFor(GetParam());
  if (variant == nullptr) GTEST_SKIP() << "this CPU lacks the instruction set";
  for (const int dim : {1, 7, 16, 33, 129}) {
    RandomStream random(kSeed, static_cast<std::uint64_t>(dim));
    std::vector<float> expected = Draw(&random, dim, -1, 1);
    std::vector<float> actual = expected;
    const std::vector<float> grad = Draw(&random, dim, -3, 3);
    KernelsFor(Isa::kBaseline)->add(expected.data(), grad.data(), dim);
    variant->add(actual.data(), grad.data(), dim);
    ExpectSameBits(expected, actual, "dim " + std::to_string(dim));
  }
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
  std::vector<float> values(kDim + 1, 0.0F);
  values[kDim] = 0.25F;
  ApplyInMemory(values, grad, 0, [](const RowMemory& memory, const RowGrads& grads) {
    BestKernels().rowwise_adagrad(memory, grads, {.lr = 0.1F, .eps = 0.0F});
  });
  EXPECT_EQ(values[kDim], 0.25F + lanes[0] / kDim);
}

// ---- rows of 16-bit floats --------------------------------------------------------------------------------------------

struct HalfCase {
  const char* name;
  int state_each;  // state floats for each of the row's
  int state_more;
  std::size_t (*apply)(const Kernels& kernels, const RowMemory& memory, const RowGrads& grads);
};
const HalfCase kHalfCases[] = {
    {"sgd", 0, 0, [](const Kernels& k, const RowMemory& m, const RowGrads& g) { return k.sgd(m, g, {.lr = 0.1F}); }},
    {"adagrad", 1, 0,
     [](const Kernels& k, const RowMemory& m, const RowGrads& g) { return k.adagrad(m, g, {.lr = 0.1F, .eps = 1e-10F}); }},
    {"rowwise_adagrad", 0, 1,
     [](const Kernels& k, const RowMemory& m, const RowGrads& g) {
       return k.rowwise_adagrad(m, g, {.lr = 0.1F, .eps = 1e-10F});
     }},
    {"adam", 2, 0,
     [](const Kernels& k, const RowMemory& m, const RowGrads& g) {
       return k.adam(m, g, {.step_size = 0.03F, .one_minus_beta1 = 0.1F, .one_minus_beta2 = 0.001F, .eps = 1e-8F});
     }},
    {"ftrl", 2, 0,
     [](const Kernels& k, const RowMemory& m, const RowGrads& g) {
       return k.ftrl(m, g, {.lr = 0.1F, .l1 = 0.5F, .l2 = 0.01F, .beta = 1.0F});
     }},
};

class HalfRows : public testing::TestWithParam<std::tuple<Isa, FloatType>> {};

// Row by row in plain steps: unpack, the update of floats, round by (stream, key, update count).
TEST_P(HalfRows, AreUpdatedAsFloatsAndRoundedByTheirOwnDraws) {
  const auto& [isa, dtype] = GetParam();
  const Kernels* kernels = KernelsFor(isa);
  if (kernels == nullptr) GTEST_SKIP() << "this CPU lacks the instruction set";
  constexpr std::uint64_t kStream = 0xfeedbeef;
  for (const HalfCase& rule : kHalfCases) {
    for (const int dim : {1, 2, 3, 4, 7, 8, 12, 15, 16, 17, 20, 31, 32, 33, 48, 64, 100, 129}) {
      const auto width = static_cast<std::size_t>(dim);
      RandomStream random(kSeed, static_cast<std::uint64_t>(dim));
      const int state_floats = rule.state_each * dim + rule.state_more;
      Rows floats(dim, state_floats, &random);
      std::vector<std::byte> packed(Rows::kRows * width * BytesOf(dtype));
      PackFloats(dtype, floats.embeddings, packed.data());
      UnpackFloats(dtype, packed.data(), floats.embeddings);
      Rows halves = floats;
      halves.memory.dtype = dtype;
      halves.memory.embeddings = packed.data();
      const std::string what = std::string(rule.name) + " dim " + std::to_string(dim);
      for (std::uint32_t step = 0; step < 20; ++step) {
        std::vector<std::uint32_t> rows;
        std::vector<std::uint64_t> keys;
        for (int i = 0; i < 25; ++i) {
          rows.push_back(static_cast<std::uint32_t>(random.Below(Rows::kRows)));
          keys.push_back(rows.back() * 0x9e3779b97f4a7c15ULL);
        }
        const std::vector<float> grads = Draw(&random, 25 * dim, -3, 3);
        std::size_t newly_dirty = 0;
        for (std::size_t i = 0; i < rows.size(); ++i) {
          newly_dirty += rule.apply(*KernelsFor(Isa::kBaseline), floats.memory,
                                    {.rows = &rows[i], .grads = grads.data() + i * width, .count = 1, .step = step});
          const std::uint32_t updates = floats.memory.Header(rows[i])->Unpack().updates;
          const std::span<float> row = std::span(floats.embeddings).subspan(rows[i] * width, width);
          std::vector<std::byte> rounded(width * BytesOf(dtype));
          PackFloatsStochastic(dtype, row, RandomBits(kStream, keys[i], updates), rounded.data());
          UnpackFloats(dtype, rounded.data(), row);
        }
        ASSERT_EQ(newly_dirty, rule.apply(*kernels, halves.memory,
                                          {.rows = rows.data(),
                                           .grads = grads.data(),
                                           .count = rows.size(),
                                           .step = step,
                                           .keys = keys.data(),
                                           .stream = kStream}))
            << what;
      }
      UnpackFloats(dtype, packed.data(), halves.embeddings);
      ExpectSameBits(floats.embeddings, halves.embeddings, what + " embeddings");
      ExpectSameBits(floats.states, halves.states, what + " headers and states");
    }
  }
}

TEST_P(HalfRows, AreGatheredAsFloats) {
  const auto& [isa, dtype] = GetParam();
  const Kernels* kernels = KernelsFor(isa);
  if (kernels == nullptr) GTEST_SKIP() << "this CPU lacks the instruction set";
  for (const int dim : {1, 3, 4, 5, 8, 12, 16, 17, 31, 32, 64, 129}) {
    const auto width = static_cast<std::size_t>(dim);
    RandomStream random(kSeed, static_cast<std::uint64_t>(dim));
    // Any bits: infinities, NaNs, subnormals.
    std::vector<std::byte> packed(Rows::kRows * width * BytesOf(dtype));
    for (std::byte& byte : packed) byte = static_cast<std::byte>(random());
    std::vector<float> expected(Rows::kRows * width);
    UnpackFloats(dtype, packed.data(), expected);
    const RowMemory memory{.embeddings = packed.data(), .states = nullptr, .dim = width, .state_bytes = 0, .dtype = dtype};
    std::vector<std::uint32_t> asked;
    std::vector<std::uint32_t> places;
    for (std::uint32_t i = 0; i < 50; ++i) {
      asked.push_back(i % 7 == 3 ? RowIndex::kNoRow : static_cast<std::uint32_t>(random.Below(Rows::kRows)));
      places.push_back((i * 17) % 50);
    }
    std::vector<float> in_order(50 * width, -9.0F);
    std::vector<float> placed(50 * width, -9.0F);
    EXPECT_EQ(kernels->gather(memory, asked.data(), 50, nullptr, in_order.data()), 7U);
    EXPECT_EQ(kernels->gather(memory, asked.data(), 50, places.data(), placed.data()), 7U);
    for (std::size_t i = 0; i < 50; ++i) {
      std::vector<float> row(width, -9.0F);
      if (asked[i] != RowIndex::kNoRow) row.assign(&expected[asked[i] * width], &expected[asked[i] * width] + width);
      const auto part = [&](const std::vector<float>& from, std::size_t at) {
        return std::vector<float>(&from[at * width], &from[at * width] + width);
      };
      ExpectSameBits(part(in_order, i), row, "dim " + std::to_string(dim));
      ExpectSameBits(part(placed, places[i]), row, "placed, dim " + std::to_string(dim));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(IsasAndTypes, HalfRows,
                         testing::Combine(testing::Values(Isa::kBaseline, Isa::kAvx2, Isa::kAvx512),
                                          testing::Values(FloatType::kFloat16, FloatType::kBfloat16)),
                         [](const auto& test) {
                           const Isa isa = std::get<0>(test.param);
                           return std::string(isa == Isa::kBaseline ? "Baseline" : (isa == Isa::kAvx2 ? "Avx2" : "Avx512")) +
                                  "_" + std::string(NameOf(std::get<1>(test.param)));
                         });

// What every update does to the header, and what it returns.
TEST(Kernels, UpdatesMarkCountAndStampRows) {
  RandomStream random(kSeed, 2);
  Rows rows(16, 1, &random);
  const std::vector<std::uint32_t> updated = {3, 9, 3};
  const std::vector<float> grads(3 * 16, 0.5F);
  const auto apply = [&](std::uint32_t step) {
    return BestKernels().rowwise_adagrad(
        rows.memory, {.rows = updated.data(), .grads = grads.data(), .count = 3, .step = step}, {.lr = 1, .eps = 1});
  };
  EXPECT_EQ(apply(7), 2U);
  EXPECT_EQ(apply(8), 0U) << "dirty already";
  EXPECT_EQ(rows.memory.Header(3)->Unpack().updates, 4U);
  EXPECT_EQ(rows.memory.Header(9)->Unpack().updates, 2U);
  EXPECT_EQ(rows.memory.Header(9)->last_step, 8U);
  EXPECT_EQ(rows.memory.Header(9)->updates_and_flags & PackedHeader::kDirty, PackedHeader::kDirtyEven);
  EXPECT_EQ(rows.memory.Header(4)->updates_and_flags, 0U);
}

TEST(Kernels, GatherPutsRowsWhereTheyBelong) {
  for (const Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
    const Kernels* kernels = KernelsFor(isa);
    if (kernels == nullptr) continue;
    for (const int dim : {1, 5, 8, 16, 32, 64, 129}) {
      RandomStream random(kSeed, static_cast<std::uint64_t>(dim));
      const auto width = static_cast<std::size_t>(dim);
      const Rows rows(dim, 0, &random);
      std::vector<std::uint32_t> asked;
      std::vector<std::uint32_t> places;
      for (std::uint32_t i = 0; i < 50; ++i) {
        asked.push_back(i % 7 == 3 ? RowIndex::kNoRow : static_cast<std::uint32_t>(random.Below(Rows::kRows)));
        places.push_back((i * 17) % 50);
      }
      std::vector<float> in_order(50 * width, -9.0F);
      std::vector<float> placed(50 * width, -9.0F);
      kernels->gather(rows.memory, asked.data(), 50, nullptr, in_order.data());
      kernels->gather(rows.memory, asked.data(), 50, places.data(), placed.data());
      for (std::size_t i = 0; i < 50; ++i) {
        for (std::size_t d = 0; d < width; ++d) {
          const float expected = asked[i] == RowIndex::kNoRow ? -9.0F : rows.embeddings[asked[i] * width + d];
          ASSERT_EQ(in_order[i * width + d], expected) << dim;
          ASSERT_EQ(placed[places[i] * width + d], expected) << dim;
        }
      }
    }
  }
}

}  // namespace
}  // namespace gatemill::ps
