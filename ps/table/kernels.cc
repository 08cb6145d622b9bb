#include "ps/table/kernels.h"

#include <cmath>
#include <initializer_list>

#if defined(__x86_64__)
#define GM_X86 1
#endif

namespace gatemill::ps {
namespace {

// Inlined into one wrapper per instruction set, so that the compiler vectorizes the same loop for each.
#define GM_KERNEL [[gnu::always_inline]] inline

constexpr int kLanes = 16;

GM_KERNEL void SgdLoop(float* __restrict row, const float* __restrict grad, int dim, SgdStep step) {
  for (int i = 0; i < dim; ++i) row[i] -= step.lr * grad[i];
}

GM_KERNEL void AdagradLoop(float* __restrict row, float* __restrict sum, const float* __restrict grad, int dim,
                           AdagradStep step) {
  for (int i = 0; i < dim; ++i) {
    sum[i] += grad[i] * grad[i];
    row[i] -= step.lr * grad[i] / (std::sqrt(sum[i]) + step.eps);
  }
}

// Lane i takes elements i, i + 16, ...; lanes are folded pairwise 8, 4, 2, 1.
GM_KERNEL float SumOfSquares(const float* __restrict grad, int dim) {
  float lanes[kLanes] = {};
  int begin = 0;
  for (; begin + kLanes <= dim; begin += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += grad[begin + lane] * grad[begin + lane];
  }
  for (int lane = 0; begin + lane < dim; ++lane) lanes[lane] += grad[begin + lane] * grad[begin + lane];
  for (int lane = 0; lane < 8; ++lane) lanes[lane] += lanes[lane + 8];
  for (int lane = 0; lane < 4; ++lane) lanes[lane] += lanes[lane + 4];
  for (int lane = 0; lane < 2; ++lane) lanes[lane] += lanes[lane + 2];
  return lanes[0] + lanes[1];
}

GM_KERNEL void RowwiseAdagradLoop(float* __restrict row, float* __restrict sum, const float* __restrict grad, int dim,
                                  AdagradStep step) {
  sum[0] += SumOfSquares(grad, dim) / static_cast<float>(dim);
  const float scale = step.lr / (std::sqrt(sum[0]) + step.eps);
  for (int i = 0; i < dim; ++i) row[i] -= scale * grad[i];
}

GM_KERNEL void AdamLoop(float* __restrict row, float* __restrict mean, float* __restrict variance,
                        const float* __restrict grad, int dim, AdamStep step) {
  for (int i = 0; i < dim; ++i) {
    mean[i] += step.one_minus_beta1 * (grad[i] - mean[i]);
    variance[i] += step.one_minus_beta2 * (grad[i] * grad[i] - variance[i]);
    row[i] -= step.step_size * mean[i] / (std::sqrt(variance[i]) + step.eps);
  }
}

GM_KERNEL void FtrlLoop(float* __restrict row, float* __restrict z, float* __restrict n, const float* __restrict grad,
                        int dim, FtrlStep step) {
  for (int i = 0; i < dim; ++i) {
    const float new_n = n[i] + grad[i] * grad[i];
    const float root = std::sqrt(new_n);
    const float sigma = (root - std::sqrt(n[i])) / step.lr;
    const float new_z = z[i] + (grad[i] - sigma * row[i]);
    const float shrunk = new_z > 0.0F ? new_z - step.l1 : new_z + step.l1;
    const float weight = -shrunk / ((step.beta + root) / step.lr + step.l2);
    n[i] = new_n;
    z[i] = new_z;
    row[i] = std::fabs(new_z) <= step.l1 ? 0.0F : weight;
  }
}

GM_KERNEL void AddLoop(float* __restrict sum, const float* __restrict grad, int dim) {
  for (int i = 0; i < dim; ++i) sum[i] += grad[i];
}

// NOLINTBEGIN(bugprone-macro-parentheses): an attribute and a name cannot stand in parentheses.
// One set of wrappers. `attribute` selects the instruction set, `suffix` names the set.
#define GM_KERNEL_SET(suffix, attribute)                                                                              \
  attribute void Sgd##suffix(float* row, const float* grad, int dim, SgdStep step) { SgdLoop(row, grad, dim, step); } \
  attribute void Adagrad##suffix(float* row, float* sum, const float* grad, int dim, AdagradStep step) {              \
    AdagradLoop(row, sum, grad, dim, step);                                                                           \
  }                                                                                                                   \
  attribute void RowwiseAdagrad##suffix(float* row, float* sum, const float* grad, int dim, AdagradStep step) {       \
    RowwiseAdagradLoop(row, sum, grad, dim, step);                                                                    \
  }                                                                                                                   \
  attribute void Adam##suffix(float* row, float* mean, float* variance, const float* grad, int dim, AdamStep step) {  \
    AdamLoop(row, mean, variance, grad, dim, step);                                                                   \
  }                                                                                                                   \
  attribute void Ftrl##suffix(float* row, float* z, float* n, const float* grad, int dim, FtrlStep step) {            \
    FtrlLoop(row, z, n, grad, dim, step);                                                                             \
  }                                                                                                                   \
  attribute void Add##suffix(float* sum, const float* grad, int dim) { AddLoop(sum, grad, dim); }                     \
  constexpr Kernels k##suffix = {                                                                                     \
      .sgd = Sgd##suffix,                                                                                             \
      .adagrad = Adagrad##suffix,                                                                                     \
      .rowwise_adagrad = RowwiseAdagrad##suffix,                                                                      \
      .adam = Adam##suffix,                                                                                           \
      .ftrl = Ftrl##suffix,                                                                                           \
      .add = Add##suffix,                                                                                             \
  };

// NOLINTEND(bugprone-macro-parentheses)

GM_KERNEL_SET(Baseline, )
#ifdef GM_X86
GM_KERNEL_SET(Avx2, [[gnu::target("avx2")]])
GM_KERNEL_SET(Avx512, [[gnu::target("avx512f,avx512vl,avx512dq,avx512bw")]])
#endif

}  // namespace

const Kernels* KernelsFor(Isa isa) {
#ifdef GM_X86
  if (isa == Isa::kAvx2) return __builtin_cpu_supports("avx2") ? &kAvx2 : nullptr;
  if (isa == Isa::kAvx512) {
    const bool supported = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    return supported ? &kAvx512 : nullptr;
  }
#endif
  return isa == Isa::kBaseline ? &kBaseline : nullptr;
}

const Kernels& BestKernels() {
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2}) {
    if (const Kernels* kernels = KernelsFor(isa)) return *kernels;
  }
  return kBaseline;
}

}  // namespace gatemill::ps
