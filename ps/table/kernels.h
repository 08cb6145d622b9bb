// The loops of the sparse optimizers, compiled once per instruction set and chosen at run time.
//
//   const Kernels& kernels = BestKernels();
//   kernels.adagrad(row, state, grad, dim, {.lr = 0.1F, .eps = 1e-10F});
//
// Every variant gives the same bits: the loops are the same source, element by element or in 16 fixed lanes, with
// IEEE add, multiply, divide and square root only, and no fused multiply-add.
// All arrays hold `dim` floats and are aligned to 4 bytes; they do not overlap. Thread safety: pure functions.
#pragma once

namespace gatemill::ps {

enum class Isa { kBaseline, kAvx2, kAvx512 };

struct SgdStep {
  float lr;
};
struct AdagradStep {  // element-wise and row-wise
  float lr;
  float eps;
};
struct AdamStep {
  float step_size;  // lr * sqrt(1 - beta2^t) / (1 - beta1^t)
  float one_minus_beta1;
  float one_minus_beta2;
  float eps;
};
struct FtrlStep {
  float lr;  // alpha of the paper
  float l1;
  float l2;
  float beta;
};

// Formulas: ps/table/optimizer.h.
struct Kernels {
  void (*sgd)(float* row, const float* grad, int dim, SgdStep step);
  void (*adagrad)(float* row, float* sum, const float* grad, int dim, AdagradStep step);
  void (*rowwise_adagrad)(float* row, float* sum /* one float */, const float* grad, int dim, AdagradStep step);
  void (*adam)(float* row, float* mean, float* variance, const float* grad, int dim, AdamStep step);
  void (*ftrl)(float* row, float* z, float* n, const float* grad, int dim, FtrlStep step);
  void (*add)(float* sum, const float* grad, int dim);  // sum += grad
};

// Null when this CPU lacks the instructions.
const Kernels* KernelsFor(Isa isa);
// The widest that this CPU has.
const Kernels& BestKernels();

}  // namespace gatemill::ps
