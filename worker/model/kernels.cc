#include "worker/model/kernels.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "common/random.h"

// Each loop is compiled for several instruction sets and chosen when the library is loaded. Sanitizers run before that
// choice can be made, so they get one version.
#if defined(__x86_64__) && !defined(GATEMILL_SANITIZED)
#define GM_VECTORIZED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GM_VECTORIZED
#endif

namespace gatemill::model::kernels {
namespace {

constexpr std::int64_t kChunkRows = 64;          // fixed: sums are made per chunk
constexpr std::int64_t kMinParallel = 1 << 14;   // numbers; a smaller loop stays on one thread
constexpr std::int64_t kFlatChunk = 1 << 14;

inline __attribute__((always_inline)) std::uint32_t UnitBits(DropoutRow start, std::uint32_t unit) {
  // The integer finalizer "lowbias32" of C. Wellons (public domain), keyed once more in its middle.
  std::uint32_t x = start.a + unit * 0x9e3779b9U;
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= (x >> 15) ^ start.b;
  x *= 0x846ca68bU;
  return x ^ (x >> 16);
}

// exp(x) for x <= 0 to about 1e-7 of its value: 2^n times the Taylor series of the rest, |rest| <= ln(2) / 2.
inline __attribute__((always_inline)) float ExpOfNegative(float x) {
  x = x < -87.0F ? -87.0F : x;
  const float n = std::nearbyint(x * 1.44269504F);
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.0F / 5040.0F;
  for (const float c : {1.0F / 720.0F, 1.0F / 120.0F, 1.0F / 24.0F, 1.0F / 6.0F, 0.5F, 1.0F, 1.0F}) p = p * r + c;
  // n is what the sum's bits have more than the constant's. Of a NaN they may be any: p is one, too.
  constexpr float kWhole = 12582912.0F;  // 1.5 * 2^23
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(n + kWhole) - std::bit_cast<std::uint32_t>(kWhole) + 127U;
  return p * std::bit_cast<float>(exponent << 23);
}

template <typename Body>
void ForChunks(std::int64_t rows, std::int64_t columns, const Body& body) {
  const std::int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
  const std::int64_t grain = std::max<std::int64_t>(1, kMinParallel / (kChunkRows * std::max<std::int64_t>(1, columns)));
  at::parallel_for(0, chunks, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) body(c, c * kChunkRows, std::min(rows, (c + 1) * kChunkRows));
  });
}

template <typename Body>
void ForFlat(std::int64_t count, const Body& body) {
  const std::int64_t chunks = (count + kFlatChunk - 1) / kFlatChunk;
  at::parallel_for(0, chunks, 2, [&](std::int64_t begin, std::int64_t end) {
    body(begin * kFlatChunk, std::min(count, end * kFlatChunk));
  });
}

GM_VECTORIZED void TransposeRows(const float* __restrict x, std::int64_t rows, std::int64_t columns,
                                 std::int64_t first_column, std::int64_t last_column, float* __restrict y) {
  constexpr std::int64_t kTile = 16;
  for (std::int64_t c0 = first_column; c0 < last_column; c0 += kTile) {
    const std::int64_t c1 = std::min(c0 + kTile, last_column);
    for (std::int64_t r0 = 0; r0 < rows; r0 += kTile) {
      const std::int64_t r1 = std::min(r0 + kTile, rows);
      for (std::int64_t c = c0; c < c1; ++c) {
        for (std::int64_t r = r0; r < r1; ++r) y[c * rows + r] = x[r * columns + c];
      }
    }
  }
}

GM_VECTORIZED void MaskRow(DropoutRow start, std::int64_t columns, std::uint32_t threshold, float scale,
                           float* __restrict mask) {
  for (std::int64_t c = 0; c < columns; ++c) {
    mask[c] = UnitBits(start, static_cast<std::uint32_t>(c)) < threshold ? 0.0F : scale;
  }
}

GM_VECTORIZED void DropoutReluRow(const float* z, DropoutRow start, std::int64_t columns, std::uint32_t threshold,
                                  float scale, float* y) {
  for (std::int64_t c = 0; c < columns; ++c) {
    const float kept = UnitBits(start, static_cast<std::uint32_t>(c)) < threshold ? 0.0F : scale;
    y[c] = (z[c] < 0.0F ? 0.0F : z[c]) * kept;
  }
}

GM_VECTORIZED void ReluRow(const float* z, std::int64_t columns, float* y) {
  for (std::int64_t c = 0; c < columns; ++c) y[c] = z[c] < 0.0F ? 0.0F : z[c];  // NaN stays NaN
}

GM_VECTORIZED void ReluGradientRow(const float* __restrict y, const float* __restrict grad_y, std::int64_t columns,
                                   float scale, float* __restrict grad_z) {
  for (std::int64_t c = 0; c < columns; ++c) grad_z[c] = y[c] > 0.0F ? grad_y[c] * scale : 0.0F;
}

GM_VECTORIZED void AddRow(const float* __restrict x, std::int64_t columns, float* __restrict sums) {
  for (std::int64_t c = 0; c < columns; ++c) sums[c] += x[c];
}

GM_VECTORIZED void AddScaledRow(float factor, const float* __restrict x, std::int64_t columns, float* __restrict sums) {
  for (std::int64_t c = 0; c < columns; ++c) sums[c] += factor * x[c];
}

GM_VECTORIZED void SoftmaxRow(const float* __restrict logits, std::int64_t count, float* __restrict weights) {
  float largest = logits[0];
  for (std::int64_t e = 1; e < count; ++e) largest = logits[e] > largest ? logits[e] : largest;
  for (std::int64_t e = 0; e < count; ++e) weights[e] = ExpOfNegative(logits[e] - largest);
  float sum = 0;
  for (std::int64_t e = 0; e < count; ++e) sum += weights[e];
  for (std::int64_t e = 0; e < count; ++e) weights[e] /= sum;
}

// Sixteen lanes, added in order: the same bits with every vector width.
GM_VECTORIZED float Dot(const float* __restrict x, const float* __restrict y, std::int64_t count) {
  float lanes[16] = {};
  std::int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int lane = 0; lane < 16; ++lane) lanes[lane] += x[i + lane] * y[i + lane];
  }
  for (int lane = 0; i < count; ++i, ++lane) lanes[lane] += x[i] * y[i];
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

GM_VECTORIZED void AdamRange(const AdamStep& step, std::int64_t count, const float* __restrict grad,
                             float* __restrict parameter, float* __restrict m, float* __restrict v) {
  const AdamStep s = step;
  for (std::int64_t i = 0; i < count; ++i) {
    const float p = parameter[i] * s.shrink;
    const float g = grad[i] + s.decay * p;
    m[i] += s.one_minus_beta1 * (g - m[i]);
    v[i] = v[i] * s.beta2 + s.one_minus_beta2 * g * g;
    parameter[i] = p - s.lr_over_correction1 * (m[i] / (std::sqrt(v[i]) / s.sqrt_correction2 + s.eps));
  }
}

GM_VECTORIZED void AdagradRange(float lr, float eps, float decay, std::int64_t count, const float* __restrict grad,
                                float* __restrict parameter, float* __restrict sum) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = grad[i] + decay * parameter[i];
    sum[i] += g * g;
    parameter[i] -= lr * (g / (std::sqrt(sum[i]) + eps));
  }
}

GM_VECTORIZED void SgdRange(float lr, float decay, std::int64_t count, const float* __restrict grad,
                            float* __restrict parameter) {
  for (std::int64_t i = 0; i < count; ++i) parameter[i] -= lr * (grad[i] + decay * parameter[i]);
}

GM_VECTORIZED void MomentumRange(float lr, float momentum, float decay, std::int64_t count,
                                 const float* __restrict grad, float* __restrict parameter, float* __restrict velocity) {
  for (std::int64_t i = 0; i < count; ++i) {
    velocity[i] = velocity[i] * momentum + (grad[i] + decay * parameter[i]);
    parameter[i] -= lr * velocity[i];
  }
}

float KeptScale(double ratio) { return static_cast<float>(1.0 / (1.0 - ratio)); }

}  // namespace

void Transpose(const float* x, std::int64_t rows, std::int64_t columns, float* y) {
  const std::int64_t grain = std::max<std::int64_t>(16, kMinParallel / std::max<std::int64_t>(1, rows) / 16 * 16);
  at::parallel_for(0, columns, grain,
                   [&](std::int64_t begin, std::int64_t end) { TransposeRows(x, rows, columns, begin, end, y); });
}

DropoutRow DropoutStart(std::uint64_t seed, std::uint64_t step, std::uint64_t sample, std::uint32_t layer) {
  const std::uint64_t bits = Mix64(RandomBits(seed, step, sample) + 0x9e3779b97f4a7c15ULL * layer);
  return {static_cast<std::uint32_t>(bits), static_cast<std::uint32_t>(bits >> 32)};
}

std::uint32_t DropoutThreshold(double ratio) { return static_cast<std::uint32_t>(ratio * 0x1.0p32); }

void DropoutMask(std::span<const DropoutRow> starts, std::int64_t columns, double ratio, float* mask) {
  const std::uint32_t threshold = DropoutThreshold(ratio);
  ForChunks(static_cast<std::int64_t>(starts.size()), columns, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      MaskRow(starts[static_cast<std::size_t>(r)], columns, threshold, KeptScale(ratio), mask + r * columns);
    }
  });
}

void Activate(const float* z, std::int64_t rows, std::int64_t z_columns, const Block& block,
              std::span<const DropoutRow> starts, float* y) {
  const std::uint32_t threshold = DropoutThreshold(block.dropout_ratio);
  const float scale = KeptScale(block.dropout_ratio);
  ForChunks(rows, block.columns, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const float* from = z + r * z_columns + block.column;
      float* to = y + r * block.columns;
      if (block.dropout_ratio > 0) {
        DropoutReluRow(from, starts[static_cast<std::size_t>(r)], block.columns, threshold, scale, to);
      } else if (block.relu) {
        ReluRow(from, block.columns, to);
      } else {
        std::copy_n(from, block.columns, to);
      }
    }
  });
}

void ActivateGradient(const float* y, const float* grad_y, std::int64_t rows, std::int64_t z_columns, const Block& block,
                      float* grad_z) {
  const float scale = KeptScale(block.dropout_ratio);
  ForChunks(rows, block.columns, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      float* to = grad_z + r * z_columns + block.column;
      if (grad_y == nullptr) {
        std::fill_n(to, block.columns, 0.0F);
      } else if (block.relu) {
        ReluGradientRow(y + r * block.columns, grad_y + r * block.columns, block.columns, scale, to);
      } else {
        std::copy_n(grad_y + r * block.columns, block.columns, to);
      }
    }
  });
}

void ColumnSums(const float* x, std::int64_t rows, std::int64_t columns, float* sums) {
  const std::int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
  std::vector<float> partial(static_cast<std::size_t>(chunks * columns), 0.0F);
  ForChunks(rows, columns, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) AddRow(x + r * columns, columns, partial.data() + chunk * columns);
  });
  std::fill_n(sums, columns, 0.0F);
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) AddRow(partial.data() + chunk * columns, columns, sums);
}

void Mix(const Members& members, std::span<const float* const> logits, std::span<const float* const> experts, std::int64_t rows,
         std::int64_t width, float* weights, std::span<float* const> mixed, std::span<double> weight_sums) {
  const auto cells = static_cast<std::int64_t>(weight_sums.size());
  const std::int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
  std::vector<float> partial(static_cast<std::size_t>(chunks * cells), 0.0F);
  ForChunks(rows, cells * width, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      float* weight = weights + r * cells;
      for (std::size_t g = 0; g < members.size(); ++g) {
        const auto count = static_cast<std::int64_t>(members[g].size());
        float* to = mixed[g] + r * width;
        SoftmaxRow(logits[g] + r * count, count, weight);
        std::fill_n(to, width, 0.0F);
        for (const int expert : members[g]) {
          AddScaledRow(*weight++, experts[static_cast<std::size_t>(expert)] + r * width, width, to);
        }
      }
      AddRow(weights + r * cells, cells, partial.data() + chunk * cells);
    }
  });
  std::fill(weight_sums.begin(), weight_sums.end(), 0.0);
  for (std::size_t i = 0; i < partial.size(); ++i) weight_sums[i % static_cast<std::size_t>(cells)] += partial[i];
}

void MixGradient(const Members& members, std::span<const float* const> grad_mixed, std::span<const float* const> experts,
                 const float* weights, std::int64_t rows, std::int64_t width, std::span<float* const> grad_logits,
                 std::span<float* const> grad_experts) {
  std::size_t cells = 0;
  for (const auto& gate : members) cells += gate.size();
  ForChunks(rows, 2 * static_cast<std::int64_t>(cells) * width, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    std::vector<float> dots(experts.size());
    for (std::int64_t r = begin; r < end; ++r) {
      for (float* grad_expert : grad_experts) std::fill_n(grad_expert + r * width, width, 0.0F);
      const float* weight = weights + r * static_cast<std::int64_t>(cells);
      for (std::size_t g = 0; g < members.size(); weight += members[g].size(), ++g) {
        const std::vector<int>& gate = members[g];
        float* grad_logit = grad_logits[g] + r * static_cast<std::int64_t>(gate.size());
        if (grad_mixed[g] == nullptr) {
          std::fill_n(grad_logit, gate.size(), 0.0F);
          continue;
        }
        const float* grad = grad_mixed[g] + r * width;
        float mean = 0;
        for (std::size_t e = 0; e < gate.size(); ++e) {
          const auto at = static_cast<std::size_t>(gate[e]);
          dots[e] = Dot(grad, experts[at] + r * width, width);
          mean += weight[e] * dots[e];
          AddScaledRow(weight[e], grad, width, grad_experts[at] + r * width);
        }
        for (std::size_t e = 0; e < gate.size(); ++e) grad_logit[e] = weight[e] * (dots[e] - mean);
      }
    }
  });
}

void Adam(const AdamStep& step, std::int64_t count, const float* grad, float* parameter, float* m, float* v) {
  ForFlat(count, [&](std::int64_t begin, std::int64_t end) {
    AdamRange(step, end - begin, grad + begin, parameter + begin, m + begin, v + begin);
  });
}

void Adagrad(float lr, float eps, float decay, std::int64_t count, const float* grad, float* parameter, float* sum) {
  ForFlat(count, [&](std::int64_t begin, std::int64_t end) {
    AdagradRange(lr, eps, decay, end - begin, grad + begin, parameter + begin, sum + begin);
  });
}

void Sgd(float lr, float momentum, float decay, std::int64_t count, const float* grad, float* parameter, float* velocity) {
  ForFlat(count, [&](std::int64_t begin, std::int64_t end) {
    if (velocity == nullptr) {
      SgdRange(lr, decay, end - begin, grad + begin, parameter + begin);
    } else {
      MomentumRange(lr, momentum, decay, end - begin, grad + begin, parameter + begin, velocity + begin);
    }
  });
}

}  // namespace gatemill::model::kernels
