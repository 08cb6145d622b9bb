// The loops of EmbeddingLayer over the values of one feature, compiled for each instruction set; same bits from each.
//
// Thread safety: pure functions; two calls may run together when they write different samples or different slots.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/config.h"
#include "ps/table/isa.h"

namespace gatemill::train {

// One feature's values in a batch. Rows of its table and of their gradients: [slots, dim].
struct FeatureValues {
  const std::uint32_t* slots = nullptr;    // [values]
  const std::uint32_t* offsets = nullptr;  // [samples + 1] into slots; null: one value a sample
  Pooling pooling = Pooling::kMean;
  int dim = 0;
  std::size_t x_dim = 0;
};

// The gradients of slots [begin, end). Those of [begin, written) are sums; the others hold anything and count as zero:
// slots are numbered by first use, so that memory is written first where it is used first.
struct GradientRows {
  float* grads = nullptr;  // of slot 0
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  std::uint32_t written = 0;
};

struct PoolingKernels {
  // x[r * x_dim ..] = the pooled row of sample r, for r in [begin, end).
  void (*gather)(const FeatureValues& values, const float* rows, std::size_t begin, std::size_t end, float* x);
  // grads += the parts that their slots have in the gradient of x, sample by sample. `all`: no value has another slot.
  void (*scatter)(const FeatureValues& values, const float* rows, std::size_t samples, const float* grad_x, bool all,
                  GradientRows* grads);
};

// Null if this CPU lacks the instruction set.
const PoolingKernels* PoolingKernelsFor(ps::Isa isa);
const PoolingKernels& BestPoolingKernels();

// Zeros up to slot `end`, if it was not written yet.
void ZeroUpTo(std::uint32_t end, int dim, GradientRows* grads);

}  // namespace gatemill::train
